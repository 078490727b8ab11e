"""Tiny runs, and the weights that they leave."""

from pathlib import Path

import torch

from dreamer_cli.tensorfiles import read_tensors
from tests.commands.same import newest

TINY = ["-p", "debug", "--save-every", "0", "-q"]


def weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The weights of a run's newest checkpoint."""
    return read_tensors(newest(Path(path)) / "weights.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)

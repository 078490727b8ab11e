"""Shared fixtures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jaxtyping
import pytest
import torch


def load_reference() -> dict:
    """Known answers, computed with independent float64 code (see `tests/fixtures/README.md`)."""
    return json.loads((Path(__file__).parent / "fixtures" / "reference.json").read_text())


@pytest.fixture(scope="session")
def reference() -> dict:
    """The same, read once."""
    return load_reference()


class Precision(NamedTuple):
    """A floating-point type and the relative error that known answers may differ by in it."""

    dtype: torch.dtype
    tolerance: float


@pytest.fixture(params=[Precision(torch.float64, 1e-10), Precision(torch.float32, 1e-5)], ids=["float64", "float32"])
def precision(request: pytest.FixtureRequest) -> Iterator[Precision]:
    """Both precisions; the test's new tensors have the type by default."""
    torch.set_default_dtype(request.param.dtype)
    yield request.param
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def unchecked_shapes() -> Iterator[None]:
    """Whole runs call everything many times; whether shapes fit signatures is tested elsewhere, and costs minutes."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)

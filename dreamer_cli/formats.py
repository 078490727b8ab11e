"""File formats of an export: how parts are written, and how what was written is run again to compare it.

| format | holds | runs in |
|---|---|---|
| `onnx` | graph and weights | onnxruntime, without torch |
| `pt2` | graph and weights (`torch.export`) | torch, without dreamer |
| `safetensors` | weights, under the names of a checkpoint | whatever rebuilds the networks from config.yaml |

Reading a pt2 file back uses pickle in places, as torch's own documentation warns. Here only files are read that
this process wrote a moment ago; never load one from somebody whom you would not let run code.
"""

import contextlib
import copy
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from dreamer_cli.envs.catalog import pip_line
from dreamer_cli.errors import EnvError, UsageError
from dreamer_cli.files import FILES
from dreamer_cli.frozen import TORCH_DTYPES, Part
from dreamer_cli.tensorfiles import read_tensors, tensor_parts

Feed = Mapping[str, np.ndarray]
Runner = Callable[[Feed], dict[str, np.ndarray]]

OLDEST_OPSET = 18  # what torch's exporter writes natively; older ones it only converts to, and often cannot
ONE_FILE = 1_900_000_000  # bytes of weights; protobuf ends at 2 GB, beyond this they get a file of their own
METADATA = "interface"  # the key under which a model file carries interface.json


@runtime_checkable
class Format(Protocol):
    """One format. `names` gives the model files' names; a runner is what a part does, read back from its file."""

    suffix: str

    def names(self, parts: list[str], stem: str | None) -> dict[str, str]: ...

    def write(self, parts: list[Part], paths: Mapping[str, Path], interface: Mapping[str, Any]) -> None: ...

    def runner(self, part: Part, path: Path) -> Runner: ...


def _one_file_a_part(parts: list[str], stem: str | None, suffix: str) -> dict[str, str]:
    """`policy.onnx`; with a stem of the user's `agent.onnx`, or `agent-policy.onnx` and `agent-world.onnx`."""
    if stem is None:
        return {part: f"{part}{suffix}" for part in parts}
    return {part: f"{stem}{suffix}" if len(parts) == 1 else f"{stem}-{part}{suffix}" for part in parts}


class Onnx:
    """A file a part, without randomness, state or control flow in it.

    Raises:
        EnvError: the extra is not installed.
        UsageError: the opset is none that can be written.
    """

    suffix = ".onnx"

    def __init__(self, opset: int | None = None) -> None:
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
        if missing:
            raise EnvError(f"Writing ONNX needs {', '.join(missing)}.", hint=f"Type: {pip_line('onnx')}")
        import onnx.defs

        newest = onnx.defs.onnx_opset_version()
        if opset is not None and not OLDEST_OPSET <= opset <= newest:
            raise UsageError(
                f"--opset {opset} cannot be written: torch's exporter writes {OLDEST_OPSET} to {newest}.",
                hint=f"Try --opset {OLDEST_OPSET}, or leave it out.",
            )
        self.opset = opset

    def names(self, parts: list[str], stem: str | None) -> dict[str, str]:
        """One file a part."""
        return _one_file_a_part(parts, stem, self.suffix)

    def write(self, parts: list[Part], paths: Mapping[str, Path], interface: Mapping[str, Any]) -> None:
        """Trace each part and convert it.

        Raises:
            UsageError: the exporter wrote another opset than asked for.
        """
        for part in parts:
            traced = trace(part)
            with silence():
                program = torch.onnx.export(
                    traced,
                    dynamo=True,
                    input_names=[port.name for port in part.inputs],
                    output_names=[port.name for port in part.outputs],
                    dynamic_shapes=_any_batch(part),  # once more: only for the axis's name in the file
                    opset_version=self.opset,
                    verbose=False,
                )
            assert program is not None
            written = program.model.opset_imports[""]
            if self.opset not in (None, written):
                raise UsageError(
                    f"--opset {self.opset} cannot be written: the exporter made {written} of it.",
                    hint=f"Try --opset {written}, or leave it out.",
                )
            program.model.metadata_props[METADATA] = json.dumps(interface)
            with silence():
                program.save(paths[part.name], external_data=weight_bytes(part.module) > ONE_FILE)

    def runner(self, part: Part, path: Path) -> Runner:
        """The part in onnxruntime, on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as err:
            if self.opset is None:
                raise
            raise UsageError(
                f"onnxruntime {onnxruntime.__version__} does not take --opset {self.opset}: {err}",
                hint=f"Try --opset {OLDEST_OPSET}, or leave it out.",
            ) from err
        names = [port.name for port in part.outputs]
        return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))


class Pt2:
    """A file a part, written by `torch.export.save`."""

    suffix = ".pt2"

    def names(self, parts: list[str], stem: str | None) -> dict[str, str]:
        """One file a part."""
        return _one_file_a_part(parts, stem, self.suffix)

    def write(self, parts: list[Part], paths: Mapping[str, Path], interface: Mapping[str, Any]) -> None:
        """Trace each part and save it."""
        for part in parts:
            traced = trace(part)
            with silence():
                torch.export.save(traced, paths[part.name], extra_files={METADATA: json.dumps(interface)})

    def runner(self, part: Part, path: Path) -> Runner:
        """The part as torch reads it back. Trusted, because this process wrote it (see the module's docstring)."""
        with silence():
            module = torch.export.load(path).module()
        return lambda feed: run_module(module, part, feed)


class Safetensors:
    """All weights in one file, under the names that they have in a checkpoint; `all` has the critic's too."""

    suffix = ".safetensors"

    def __init__(self, everything: Mapping[str, Tensor] | None = None) -> None:
        self.everything = everything

    def names(self, parts: list[str], stem: str | None) -> dict[str, str]:
        """The same file for every part."""
        name = stem or (parts[0] if len(parts) == 1 else "agent")
        return {part: f"{name}{self.suffix}" for part in parts}

    def write(self, parts: list[Part], paths: Mapping[str, Path], interface: Mapping[str, Any]) -> None:
        """Write the weights, float32."""
        weights = {name: value for part in parts for name, value in part.module.state_dict().items()}
        if len(parts) > 1 and self.everything is not None:
            weights |= self.everything
        FILES.write(paths[parts[0].name], tensor_parts(weights, {METADATA: json.dumps(interface)}))

    def runner(self, part: Part, path: Path) -> Runner:
        """The part with its weights taken out of the file: nothing is left of what they were."""
        module = copy.deepcopy(part.module)
        for value in module.state_dict().values():
            value.fill_(math.nan if value.is_floating_point() else 0)
        weights = read_tensors(path)
        module.load_state_dict({name: weights[name] for name in module.state_dict()})
        return lambda feed: run_module(module, part, feed)


def run_module(module: nn.Module, part: Part, feed: Feed) -> dict[str, np.ndarray]:
    """Call a module with named arrays."""
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(feed[port.name]) for port in part.inputs))
    return {port.name: value.numpy() for port, value in zip(part.outputs, outputs, strict=True)}


def trace(part: Part) -> torch.export.ExportedProgram:
    """The part's graph, for any number of rows."""
    # Two rows, because a size of one would be taken for a constant.
    example = tuple(torch.zeros(2, *port.shape, dtype=TORCH_DTYPES[port.dtype]) for port in part.inputs)
    with silence(), torch.no_grad():
        return torch.export.export(part.module, example, dynamic_shapes=_any_batch(part), strict=False)


def _any_batch(part: Part) -> Any:
    batch = torch.export.Dim("batch", min=1)
    return (tuple({0: batch} for _ in part.inputs),)


def weight_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep torch's exporters quiet: what they print and warn of concerns their authors, and stdout is ours."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""Where metrics go beside the run's own files: TensorBoard, Weights & Biases. Each needs a package of its own."""

import importlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dreamer_cli.errors import EnvError, UsageError, closest

Record = dict[str, Any]


@runtime_checkable
class Sink(Protocol):
    """Where records go beside the files."""

    def write(self, record: Record) -> None:
        """Take one record; see `MetricsLog.write`."""

    def close(self) -> None:
        """Nothing more comes."""


class TensorBoardSink:
    """Scalars by environment step, in `logs/tensorboard/` of the run."""

    def __init__(self, run_dir: Path, step: int | None = None) -> None:
        # What an earlier process wrote beyond the step that is continued from disappears from the curves.
        self._writer = _package("tensorboard").SummaryWriter(
            str(run_dir / "logs" / "tensorboard"), purge_step=None if step is None else step + 1
        )

    def write(self, record: Record) -> None:
        for name, value in record.items():
            if name not in ("time", "step") and value is not None:
                self._writer.add_scalar(name, value, record["step"], walltime=record["time"])

    def close(self) -> None:
        self._writer.close()


class WandbSink:
    """Weights & Biases; offline (`wandb sync` uploads later) unless an API key or WANDB_MODE says otherwise."""

    def __init__(self, run_dir: Path, step: int | None = None) -> None:
        wandb = _package("wandb")
        mode = os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")
        folder = run_dir / "logs"
        folder.mkdir(exist_ok=True)  # otherwise wandb writes to the system's temporary directory
        self._run: Any = wandb.init(
            project="dreamer",
            name=run_dir.name,
            id=re.sub(r"[^A-Za-z0-9_-]", "-", run_dir.name)[-64:],
            dir=str(folder),
            mode=mode,
            resume="allow",
            # It would print over the display and record the terminal.
            settings={"silent": True, "console": "off"},
        )

    def write(self, record: Record) -> None:
        self._run.log({name: value for name, value in record.items() if value is not None}, step=record["step"])

    def close(self) -> None:
        self._run.finish()


# Sink → what it imports, and what brings that.
_PACKAGES = {
    "tensorboard": ("torch.utils.tensorboard", "pip install 'dreamer-cli[tensorboard]'"),
    "wandb": ("wandb", "pip install wandb"),
}
SINKS: dict[str, Callable[[Path, int | None], Sink]] = {"tensorboard": TensorBoardSink, "wandb": WandbSink}


def _package(name: str) -> Any:
    module, install = _PACKAGES[name]
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise EnvError(f"--log {name} needs a package that is not installed.", hint=install) from err


def check_sinks(names: Sequence[str]) -> None:
    """See that the sinks can be opened, before anything is written.

    Raises:
        UsageError, EnvError: as `open_sinks`.
    """
    for name in names:
        if name not in SINKS:
            raise UsageError(
                f"--log {name} is no known choice.", hint=closest(name, SINKS) + f"Known: {', '.join(SINKS)}."
            )
        _package(name)


def open_sinks(names: Sequence[str], run_dir: Path, step: int | None = None) -> list[Sink]:
    """The sinks of `--log`, each once.

    Raises:
        UsageError: there is no such sink.
        EnvError: its package is not installed.
    """
    check_sinks(names)
    return [SINKS[name](run_dir, step) for name in dict.fromkeys(names)]

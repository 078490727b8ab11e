"""The files of an export: where they go, what they may replace, and how they get there all at once or not at all."""

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from dreamer_cli.errors import UsageError
from dreamer_cli.files import FILES, temporary
from dreamer_cli.formats import Format
from dreamer_cli.interface import MARK

SUFFIXES = (".onnx", ".pt2", ".safetensors")


class Target:
    """The files of an export: `out` itself if it names a model file, else a directory of that name.

    Raises:
        UsageError: the name belongs to another format.
    """

    def __init__(self, out: Path, form: Format, part: str) -> None:
        if out.suffix in SUFFIXES and out.suffix != form.suffix:
            raise UsageError(
                f"--out {out} does not fit the format, which is written to {form.suffix} files.",
                hint=f"Add --format {out.suffix[1:]}, or name a directory.",
            )
        names = ["policy", "world"] if part == "all" else [part]
        is_file = out.suffix == form.suffix
        self.directory = out.parent if is_file else out
        self.models = form.names(names, out.stem if is_file else None)  # part → file name
        self.wants_config = form.suffix == ".safetensors"

    def files(self) -> list[Path]:
        """Every file that may be written, in the order in which they are named to the user."""
        models = list(dict.fromkeys(self.models.values()))
        # Weights beyond protobuf's 2 GB stand in a file of their own.
        data = [f"{name}.data" for name in models if name.endswith(".onnx")]
        more = ["config.yaml"] if self.wants_config else []
        return [self.directory / name for name in (*models, *data, "interface.json", "example.py", *more)]

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A temporary directory beside the files' place, which vanishes with whatever is left in it."""
        fresh = not self.directory.exists()
        self.directory.mkdir(parents=True, exist_ok=True)
        stage = temporary(self.directory)
        stage.mkdir()
        try:
            yield stage
        finally:
            FILES.remove(stage)
            if fresh and not any(self.directory.iterdir()):
                self.directory.rmdir()

    def install(self, stage: Path) -> tuple[Path, ...]:
        """Move what was staged into place, durably: models first, so interface.json never speaks of absent ones."""
        written = [path for path in self.files() if (stage / path.name).exists()]
        for path in written:
            FILES.sync(stage / path.name)
        for path in written:
            FILES.rename(stage / path.name, path)
        FILES.sync(self.directory)
        return tuple(written)


def require_ours(paths: list[Path]) -> None:
    """See that nothing but files of former exports would be replaced.

    Raises:
        UsageError: a file or directory of somebody else is in the way.
    """
    for path in paths:
        # Weights beside a model carry no mark of their own; they are as much ours as the model is.
        owner = path.with_suffix("") if path.suffix == ".data" else path
        if path.exists() and not (owner.is_file() and _is_ours(owner)):
            raise UsageError(
                f"{path} is there already, and no file of a former export.",
                hint="Name another place with --out, or move it away.",
            )
    directory = paths[0].parent
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file, not a directory.", hint="Name another place with --out.")


def _is_ours(path: Path) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(MARK.encode()) >= 0

"""One run's directory: its paths, run.json, a new one, whether to go on with an old one. No torch.

Nothing that is read here is trusted: sizes are capped, nothing is unpickled, and names that could
leave the runs root are refused.
"""

import contextlib
import json
import platform
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import Any

from dreamer_cli import __version__, migrate
from dreamer_cli.errors import StateError, UsageError
from dreamer_cli.files import TEMPORARY, read_json, write_atomic
from dreamer_cli.lock import RunLock, is_locked

RUN_SCHEMA, RUN_VERSION = "dreamer.run", 1
STATUSES = ("running", "finished", "preempted", "interrupted", "failed", "diverged")
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py", "safetensors", "pydantic", "typer", "imageio")
NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
# What run.json holds where it holds it, since it is used without another look.
FIELDS: dict[str, type | UnionType] = {
    **dict.fromkeys(("status", "host", "device", "started", "env"), str),
    **dict.fromkeys(("command", "presets", "typed_presets"), list),
    **dict.fromkeys(("versions", "origins", "spec"), dict),
    "init_from": dict | None,
}
TEXTS = ("command", "presets", "typed_presets", "versions", "origins")  # and only texts in these


@dataclass(frozen=True)
class RunDir:
    """The paths of one run. Making the object touches nothing."""

    path: Path

    @property
    def run_json(self) -> Path:
        """Schema, status, exit code, command, versions, host, device."""
        return self.path / "run.json"

    @property
    def config(self) -> Path:
        """The fully resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON record a line."""
        return self.path / "metrics.jsonl"

    @property
    def episodes(self) -> Path:
        """One row per real episode."""
        return self.path / "episodes.csv"

    @property
    def checkpoints(self) -> Path:
        """One directory a checkpoint, named by its step; `best.json`."""
        return self.path / "checkpoints"

    @property
    def replay(self) -> Path:
        """Append-only chunks."""
        return self.path / "replay"

    @property
    def eval(self) -> Path:
        """One JSON file an evaluation."""
        return self.path / "eval"

    @property
    def videos(self) -> Path:
        """Dreams and films."""
        return self.path / "videos"

    @property
    def logs(self) -> Path:
        """train.log, tracebacks, TensorBoard."""
        return self.path / "logs"

    @property
    def lock_file(self) -> Path:
        """Locked while a process trains here."""
        return self.path / ".lock"

    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return self.run_json.is_file()

    def lock(self) -> RunLock:
        """Claim the directory for this process (StateError if another has it)."""
        return RunLock(self.lock_file)

    def status(self) -> str:
        """The status of run.json; `dead` if it says `running` and no process holds the lock."""
        status = self.read().get("status")
        if status == "running" and not is_locked(self.lock_file):
            return "dead"
        return status if status in STATUSES else "unknown"

    def read(self) -> dict[str, Any]:
        """run.json.

        Raises:
            StateError: missing, damaged, too large, or written by a newer version.
        """
        if not self.holds_run():  # nor a pipe, which would block for ever
            raise StateError(
                f"{self.path} holds no run: run.json is missing.", hint="`dreamer runs list` shows the runs."
            )
        tree = read_json(self.run_json)
        if not isinstance(tree, dict):
            raise StateError(f"{self.run_json} is damaged: no JSON object.", hint="Use another run.")
        name, _, version = str(tree.get("schema")).partition("/")
        if name != RUN_SCHEMA or not re.fullmatch("[0-9]{1,9}", version):
            raise StateError(f"{self.run_json} describes no run of dreamer.", hint="Use another run.")
        tree = migrate.migrate(tree, int(version), RUN_VERSION, migrate.RUN, str(self.run_json))
        for key, kind in FIELDS.items():
            value = tree.get(key)
            items = value.values() if isinstance(value, dict) else value or ()
            sound = key not in tree or isinstance(value, kind)
            if not sound or (key in TEXTS and not all(isinstance(item, str) for item in items)):
                raise StateError(f"{self.run_json} is damaged: {key} makes no sense.", hint="Use another run.")
        return tree

    def write(self, tree: Mapping[str, Any]) -> None:
        """Replace run.json, atomically and durably; `schema` is added."""
        schema = {"schema": f"{RUN_SCHEMA}/{RUN_VERSION}"}
        text = json.dumps({**schema, **tree, **schema}, indent=2, allow_nan=False, default=str)
        write_atomic(self.run_json, [text.encode() + b"\n"])

    def update(self, **changes: Any) -> None:
        """Change some fields of run.json: `run.update(status="finished", exit_code=0)`."""
        self.write({**self.read(), **changes})


def slug(env_id: str) -> str:
    """An environment id as a directory name: what is outside [A-Za-z0-9._-] becomes `-`."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", env_id)[:120]
    # `.` and `..` are directories already, a leading dot would hide the runs, and a dash be taken for an option.
    return name.lstrip(".-") or "env"


def short_id(env_id: str) -> str:
    """An environment id as a title has it: a file by its name, without its folder."""
    place, colon, name = env_id.rpartition(":")
    return f"{Path(place).name}:{name}" if colon and place.endswith(".py") else env_id


def new_run_dir(root: Path, env_id: str, name: str, seed: int) -> RunDir:
    """Make `<root>/<env>/<time>-<name>-s<seed>`; a number is added if it was made this very second.

    Raises:
        UsageError: the name is no plain file name.
    """
    if not NAME.fullmatch(name) or name.startswith("."):
        raise UsageError(
            f"{name!r} cannot name a run.", hint="Use letters, digits, dot, dash and underscore: --name my-run"
        )
    parent = root / slug(env_id)
    parent.mkdir(parents=True, exist_ok=True)
    base = f"{datetime.now():%Y%m%d-%H%M%S}-{name}-s{seed}"
    for number in range(1, 1000):
        path = parent / (base if number == 1 else f"{base}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return RunDir(path)
    raise StateError(f"{parent / base} exists a thousand times over.", hint="Choose another --name.")


def continues(path: Path, resume: str) -> bool:
    """Whether `train --run-dir path --resume resume` goes on with what is there. Touches nothing.

    Raises:
        StateError: `never` where a run is, `must` where none is, or a directory full of something else.
    """
    run = RunDir(path)
    if run.holds_run():
        if resume == "never":
            raise StateError(
                f"{path} holds a run already.", hint="Continue it with --resume auto, or choose another --run-dir."
            )
        return True
    if resume == "must":
        raise StateError(f"{path} holds no run to resume.", hint="Start one with --resume auto, or check --run-dir.")
    if path.exists() and not path.is_dir():
        raise StateError(f"{path} is a file, not a run directory.", hint="Choose another --run-dir.")
    if path.is_dir() and not _was_just_begun(path):
        raise StateError(f"{path} is not empty and holds no run.", hint="Choose an empty or a new --run-dir.")
    return False


def _was_just_begun(path: Path) -> bool:
    """Whether nothing is there, or only what a start leaves that was killed before run.json: nobody's data.

    A config.yaml alone may be somebody's; beside our lock file it is ours.
    """
    names = {entry.name for entry in path.iterdir()}
    own = {".lock", RunDir(path).config.name} if ".lock" in names else set()
    return all(name in own or name.startswith(TEMPORARY) for name in names)


def versions() -> dict[str, str]:
    """Versions that decide what a run computes: dreamer, Python and the packages below it. Nothing is imported."""
    found = {"dreamer": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def first_record(command: Sequence[str], **fields: Any) -> dict[str, Any]:
    """What run.json says when a run begins; `fields` are added (env, preset, seed, device, spec)."""
    return {
        "status": "running",
        "exit_code": None,
        "command": list(command),
        "versions": versions(),
        "host": socket.gethostname(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **fields,
    }

"""Power cuts on paper: what a disk may hold if everything stopped after any of its changes."""

import os
import shutil
from pathlib import Path

from dreamer_cli.files import Files


class Recorder(Files):
    """Keeps a list of all changes, with the content that was written."""

    def __init__(self) -> None:
        self.log: list[tuple] = []

    def mkdir(self, path):
        super().mkdir(path)
        self.log.append(("mkdir", path))

    def write(self, path, parts):
        written = super().write(path, parts)
        self.log.append(("write", path, path.read_bytes()))
        return written

    def sync(self, path):
        super().sync(path)
        self.log.append(("sync", path))

    def rename(self, old, new):
        super().rename(old, new)
        self.log.append(("rename", old, new))

    def remove(self, path):
        # A directory goes file by file, and a crash may come in between.
        self.log += [("remove", each) for each in sorted(path.rglob("*"), reverse=True)] if path.is_dir() else []
        super().remove(path)
        self.log.append(("remove", path))


def rebuild(before: Path, root: Path, log: list[tuple], spoiled: tuple[int, str] | None, disk: Path) -> None:
    """A disk after the changes in `log`, of which one (index, how) reached it only in part."""
    shutil.rmtree(disk, ignore_errors=True)
    shutil.copytree(before, disk)
    for number, (kind, path, *rest) in enumerate(log):
        here = disk / path.relative_to(root)
        how = spoiled[1] if spoiled and spoiled[0] == number else ""
        if kind == "mkdir":
            here.mkdir()
        elif kind == "write" and how != "absent":
            data = rest[0]
            torn = {"": data, "empty": b"", "half": data[: len(data) // 2], "zeros": bytes(len(data))}
            here.write_bytes(torn[how])
        elif kind == "rename" and how != "undone":
            os.replace(here, disk / rest[0].relative_to(root))
        elif kind == "remove" and here.exists():
            here.rmdir() if here.is_dir() else here.unlink()


def spoilable(log: list[tuple]) -> list[tuple[int, str]]:
    """What a power cut after these changes may still take back: whatever was not synced since."""
    found = []
    for number, (kind, path, *_rest) in enumerate(log):
        later = {entry[1] for entry in log[number:] if entry[0] == "sync"}
        if kind == "write":
            found += [(number, how) for how in ("empty", "half", "zeros") if path not in later]
            found += [(number, "absent")] if path.parent not in later and not _renamed(log, path) else []
        if kind == "rename" and path.parent not in later and number == len(log) - 1:
            found.append((number, "undone"))
    return found


def _renamed(log, path) -> bool:
    return any(entry[0] == "rename" and entry[1] in (path, path.parent) for entry in log)

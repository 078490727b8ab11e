"""Ids of environments for completion. To learn them, every installed suite is imported: a second, so it is remembered.

What was found stays in a file of the user's, beside a mark of what was installed then; another mark, and it is
found anew. Nothing else reads the file, and where it cannot be written nothing is lost but time.
"""

import contextlib
import os
import sys
from pathlib import Path

from dreamer_cli import __version__
from dreamer_cli.errors import DreamerError
from dreamer_cli.files import json_bytes, read_json, write_atomic


def env_ids() -> list[str]:
    """What can be typed for `--env`: the newest of all that is installed here."""
    mark, memory = installed(), remembered()
    with contextlib.suppress(DreamerError, KeyError, TypeError):
        found = read_json(memory)
        if found["mark"] == mark:
            return [str(env_id) for env_id in found["ids"]]
    from dreamer_cli.envs.catalog import all_newest

    ids = all_newest()
    with contextlib.suppress(DreamerError, OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(memory, [json_bytes({"mark": mark, "ids": ids})])
    return ids


def remembered() -> Path:
    """The file: in the user's cache, as freedesktop.org has it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dreamer" / "env_ids.json"


def installed() -> list[str]:
    """Changes whenever a package is installed or removed: our version, and when each place of packages last changed."""
    places = sorted({path for path in sys.path if Path(path).is_dir()})
    return [__version__, sys.prefix, *(f"{path} {Path(path).stat().st_mtime_ns}" for path in places)]

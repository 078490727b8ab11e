"""One process at a time in a run directory: a lock that the kernel holds and the kernel frees.

`flock` belongs to the open file, so `kill -9` frees it and no lock is ever stale. What is written
inside the file (pid, host, time) only tells people who holds it.
"""

import fcntl
import json
import os
import socket
import stat
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType

from dreamer_cli.errors import ResourceError, StateError
from dreamer_cli.files import disk_error, read_at_most

# `is_locked` takes the lock for an instant; a trainer that starts just then tries again.
TRIES, PAUSE_S = 10, 0.03
MAX_HOLDER_BYTES = 4096

_held: set[int] = set()


def _forget_in_child() -> None:
    """A forked environment worker must not keep its parent's lock alive; closing a copy does not unlock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


class RunLock:
    """The lock on one run directory; held from the moment it is made until `release` or the process ends.

    Raises:
        StateError: another process holds it; named as far as it has named itself.
        ResourceError: the file system cannot lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        how = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self._descriptor: int | None = os.open(path, how, 0o644)
        except FileNotFoundError as error:
            raise disk_error(error, path) from error
        try:
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise StateError(f"{path} is a pipe or a device, no file.", hint="Delete it, or use another --run-dir.")
            self._acquire(self._descriptor)
        except BaseException:
            os.close(self._descriptor)
            self._descriptor = None
            raise
        _held.add(self._descriptor)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "time": datetime.now().isoformat(timespec="seconds")}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(me).encode(), 0)

    def _acquire(self, descriptor: int) -> None:
        for attempt in range(TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if attempt + 1 < TRIES:
                    time.sleep(PAUSE_S)
            except OSError as err:
                raise ResourceError(
                    f"{self.path.parent} cannot be locked: {err.strerror}",
                    hint="Put the run on a file system that supports flock.",
                ) from err
        raise StateError(
            f"{self.path.parent} is in use{_holder(self.path)}.",
            hint="Wait for it to end, stop it, or choose another --run-dir.",
        )

    def release(self) -> None:
        """Let the next process in; a second call does nothing."""
        if self._descriptor in _held:  # not so in a forked child, where the number may mean another file by now
            _held.discard(self._descriptor)
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # for copies in workers, too
            os.close(self._descriptor)
        self._descriptor = None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether a live process holds the lock. Where this cannot be known (not readable), it is taken to be held."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _holder(path: Path) -> str:
    """` by process 12 on host since time`, as far as the lock file says so."""
    try:
        me = json.loads(read_at_most(path, MAX_HOLDER_BYTES))
        return f" by process {int(me['pid'])} on {me['host']} since {me['time']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""

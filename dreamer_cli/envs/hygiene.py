"""What a worker process does first, so that it can do little harm and does not outlive its trainer."""

import contextlib
import ctypes
import os
import signal
import sys
from multiprocessing import connection, parent_process

import numpy as np

PR_SET_PDEATHSIG = 1  # sys/prctl.h
EXPENDABLE = 500  # of -1000 to 1000: whom the kernel ends first when memory runs out


def become_worker(max_bytes: int | None) -> None:
    """Leave signals to the trainer, stdout to its result, and end with it.

    Args:
        max_bytes: what this process may allocate; beyond it there is a MemoryError. None: no limit.
    """
    # A group and session of its own: whatever the environment starts is in it, and ends with it.
    if hasattr(os, "setsid"):
        with contextlib.suppress(PermissionError):  # it leads one already
            os.setsid()
    _end_with_parent()
    # Schedulers signal every process of a job. The trainer still wants to finish its step and save; it ends its
    # workers itself, with SIGKILL where asking does not help.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            # A handler, not SIG_IGN, which the programs that some environments start would inherit.
            signal.signal(getattr(signal, name), lambda number, frame: None)
            if hasattr(signal, "pthread_sigmask"):  # they were blocked for the fork server's sake
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [getattr(signal, name)])
    # Forked workers inherit one state of numpy's global generator; environments that still use it would all play alike.
    np.random.seed()  # noqa: NPY002
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # Linux
        file.write(str(EXPENDABLE))
    if max_bytes is not None:
        _limit_memory(max_bytes)


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent ends, also while it hangs in the environment's code.

    Only below a fork server, which ends when the trainer does: the signal comes when the *thread* ends that started
    this process, and in the trainer that could be a short-lived one. The trainer may have died just before.
    """
    trainer = parent_process()
    if trainer is None or not sys.platform.startswith("linux") or os.getppid() == trainer.pid:
        return
    with contextlib.suppress(OSError, AttributeError):  # a C library without prctl
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if connection.wait([trainer.sentinel], 0):
        os._exit(1)


def _limit_memory(max_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

"""Memory: what is free, and how this process keeps what it has freed."""

import ctypes
import os
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensor, instead of giving it back to the system.

    A batch of images and what networks make of it are hundreds of megabytes, which every update would map anew, page
    by page, each of them zeroed first: 40 % of an update from pixels on a CPU. Returns whether the library takes it;
    only glibc does. The process's memory then stays at its highest, which the next update needs again anyway.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, which has its own ways
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 64 << 20}
    return all(mallopt(name, value) == 1 for name, value in settings.items())


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its control group (a container's limit)."""
    limits = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    for limit, used in [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ]:
        numbers = [int(line) for path in (limit, used) for line in _lines(path) if line.isdecimal()]
        if len(numbers) == 2:
            limits.append(max(0, numbers[0] - numbers[1]))
    if not limits:  # macOS tells no more than the size of the memory
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    return min(limits)


def total_memory() -> int:
    """Bytes that this process could ever use: of the machine, or of the control group that it runs in."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limits += [int(line) for line in _lines(path) if line.isdecimal()]
    return min(limits)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().split("\n")
    except OSError:
        return []

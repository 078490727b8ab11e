"""How this process keeps memory that it has freed."""

import ctypes
import sys

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

"""Keep memory that tensors gave back, on the processor: what the allocator of a GPU does by itself."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt(3)
_NEVER = -1


def keep_freed() -> bool:
    """Have this process keep freed memory for the next tensors instead of giving it back to the system.

    glibc asks the system for every array of more than 32 MB and gives it back when it is freed, so that each step of a
    training has its pages cleared and mapped again. Returns whether the system's C library let itself be told so.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))

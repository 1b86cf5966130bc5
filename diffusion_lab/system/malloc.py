"""Settings of glibc's malloc that keep freed memory in the process."""

import ctypes
import os
import sys

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30
_LARGEST_OLD_GLIBC = 2**25  # the largest value that an older glibc accepts


def keep_freed_memory() -> None:
    """Make glibc's malloc keep large freed blocks, because each step allocates the same sizes.

    By default malloc returns large blocks to the system, which hands them out again page by page,
    filled with zeros: half a million page faults in a training step of 1,024 images. The setting
    holds for the whole process, so only commands call this function. It has no effect with another
    malloc, or if environment variables already tune malloc.
    """
    tuned = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tuned or mallopt is None:
        return
    if not mallopt(_M_MMAP_THRESHOLD, _LARGEST):
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_OLD_GLIBC)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)

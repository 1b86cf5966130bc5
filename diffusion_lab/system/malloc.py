"""Memory that a step frees is kept for the next one."""

import ctypes
import os
import sys

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30
_LARGEST_OF_OLD = 2**25  # the most that an older glibc accepts


def keep_freed_memory() -> None:
    """Have glibc's malloc keep large blocks, of which every step needs the same again.

    By itself it gives them back to the system, which hands them out page by page, each filled with
    zeros: half a million page faults in a training step of 1,024 images. It is of the whole
    process, so it is for commands. Does nothing for another malloc, and where the environment
    tunes this one.
    """
    tuned = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if tuned or mallopt is None:
        return
    if not mallopt(_M_MMAP_THRESHOLD, _LARGEST):
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_OF_OLD)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)

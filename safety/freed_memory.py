"""Keep freed memory in the process, so that large tensors on a CPU are not mapped and cleared again in each step."""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library reuse freed memory instead of returning it to the system. Return whether this is supported.

    By default, glibc maps new memory for every tensor above 32 MB, and the system clears it page by page. Without that,
    a training step of a middle-sized model took 14 % less time on a CPU (benchmarks/RESULTS.md). The process keeps the
    memory of its peak, which is no loss for a program that trains or evaluates. Do not call it in a server.
    """
    if sys.platform != "linux":
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, such as musl
        return False
    return bool(set_option(_M_MMAP_MAX, 0) and set_option(_M_TRIM_THRESHOLD, _NEVER))

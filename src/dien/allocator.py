"""Memory of large tensors on the CPU: kept by the process instead of fetched from the system for every step."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse freed memory, however large the block, for the rest of the process.

    By default it maps every block of some megabytes afresh and gives it back when it is freed, so each step of a large
    batch faults all of its pages in again: without this, full histories in batches of 1,024 trained at two thirds of
    the speed (docs/performance.md). The price is that the process keeps its peak memory until it ends.

    Returns:
        False where the C library is not glibc; nothing is changed then.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library of the process itself
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))

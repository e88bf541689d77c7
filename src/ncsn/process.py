"""What a process arranges before it computes; torch need not be loaded yet."""

import ctypes
import platform


def keep_memory() -> None:
    """Tell glibc to keep the memory that tensors free, for the next tensors; does nothing elsewhere.

    By default it returns large blocks to the system, and every step pays for fresh, zeroed pages, which can take longer
    than the arithmetic of a small network.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
        for parameter in (trim_threshold, mmap_threshold):
            libc.mallopt(parameter, 2**30)


def return_memory() -> None:
    """Give what ``keep_memory`` has kept back to the system, before work of another kind; does nothing elsewhere."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)

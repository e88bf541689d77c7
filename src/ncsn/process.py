"""What a process arranges before it computes; torch need not be loaded yet."""

import ctypes
import os
import platform
import sys

PATIENCE = {"GOMP_SPINCOUNT": "20000"}  # turns, about 20 µs
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by which a user may have said otherwise


def share_processor() -> None:
    """Let OpenMP's threads wait for each other by turning only for a moment, then asleep; before torch is loaded.

    Left alone they turn for milliseconds, and where another program has one of the processors, all wait by turning for
    the thread that has none.  Does nothing if the user has said how they are to wait.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ.update(PATIENCE)


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


def refresh_interval() -> float:
    """Seconds between updates of a progress bar: a terminal wants many, a log file few."""
    return 0.3 if sys.stderr.isatty() else 30.0

"""Free memory back to the system."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
LARGE = 8_000_000  # bytes: what is as large goes back at once. Smaller ones would cost time
ENDING = 32_000_000  # bytes that may lie free at the end of the heap: with glibc's 128 kB EnCodec takes a third longer
KEPT = 80_000_000  # bytes that may lie free: to give less back costs small models more time than it saves memory


class _Numbers(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33 and later."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]


@lru_cache(maxsize=1)
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _Numbers
        library.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError):  # another C library
        return None
    return library


def trim(kept: int = KEPT) -> None:
    """Networks of large layers leave holes between what they keep, into which the next layer's numbers do not fit: without this
    a process that codes for long takes 100 MB more. Does nothing where little is free, and without glibc."""
    library = _glibc()
    if library is not None and library.mallinfo2().fordblks > kept:
        library.malloc_trim(0)


def return_large() -> None:
    """What is large goes back to the system as soon as it is free, from now on: glibc itself stops that after the first that is
    freed, and weights and numbers of one network then leave holes of tens of MB that the next cannot use. For programs of
    ours: it holds for the whole process."""
    library = _glibc()
    if library is not None:
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        library.mallopt(M_TRIM_THRESHOLD, ENDING)

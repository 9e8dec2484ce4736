"""Pages of host memory that a process keeps between operations on large tensors, instead of giving them back and being given them again.

The C library maps memory for each large tensor and unmaps it when the tensor goes; the kernel then fills the next one's pages with zeros,
one fault for each. A convolution network makes tensors of 10 to 500 MB by the dozen, and a fifth of its time goes there. Kept, the pages
of one tensor are those of the next. No number changes; the process holds somewhat more memory, because what is free lies in pieces.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # names of mallopt(3)
LARGEST = 2**31 - 1
"""Bytes at the end of the heap that are kept: as many as mallopt takes."""
USUAL = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**26))
"""Settings that the GNU C library comes to by itself in a process that has freed large tensors."""
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")
"""Beginnings of the variables by which the user settles all of this."""


@contextmanager
def kept_pages() -> Iterator[None]:
    """A block in which memory that was freed stays with the process; afterwards it goes back to the system.

    Nothing is done where the C library is not GNU's, or where the environment says how it is to allocate.
    """
    library = None if any(name.startswith(SETTINGS) for name in os.environ) else _library()
    if library is None:
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, LARGEST)
    try:
        yield
    finally:
        for name, value in USUAL:
            library.mallopt(name, value)
        library.malloc_trim(0)


def _library() -> Any | None:
    """The C library of this process, if it can be told."""
    try:
        library = ctypes.CDLL(None)
        library.mallopt, library.malloc_trim  # noqa: B018 - both are there, or none of it works
    except (OSError, AttributeError, TypeError):
        return None
    library.malloc_trim.argtypes = [ctypes.c_size_t]
    return library

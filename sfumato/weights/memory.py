"""Fresh memory, paged in a stretch at a time before it is written."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from collections.abc import Callable

from torch import Tensor

_POPULATE = 23  # MADV_POPULATE_WRITE of Linux 5.14
_LEAST = 2**18  # bytes: below, a call costs what it saves


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        call = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return call


def page_in(tensor: Tensor) -> None:
    """Have the system provide the whole pages under ``tensor`` (contiguous, on the CPU), values as they are.

    One call instead of a fault for each page of 4 KiB, which a loader of gigabytes feels. Without effect where the
    system does not know it.
    """
    call = _madvise()
    size = tensor.numel() * tensor.itemsize
    if call is None or size < _LEAST:
        return
    page = mmap.PAGESIZE
    first = -(-tensor.data_ptr() // page) * page
    stop = (tensor.data_ptr() + size) // page * page
    if stop > first:
        call(first, stop - first, _POPULATE)

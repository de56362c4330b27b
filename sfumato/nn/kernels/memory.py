"""Memory that the C library keeps: fewer page faults where large tensors come and go."""

from __future__ import annotations

import ctypes
import os
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGEST = 2**31 - 1  # mallopt takes an int


def keep_memory() -> bool:
    """Let this process keep freed memory instead of giving each large block back to the system.

    glibc maps blocks above 32 MiB anew for every allocation and unmaps them at once; the system then clears
    every page again, which in training costs a good part of the time. The price: memory once used stays with
    the process. True if it took effect; False elsewhere than on glibc, or with ``SFUMATO_KEEP_MEMORY=0`` in the
    environment. It cannot be undone.
    """
    if os.environ.get("SFUMATO_KEEP_MEMORY") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, _LARGEST))

"""glibc's malloc, told to keep what is freed: a training step on a CPU frees and asks for the same megabytes again."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_GIBIBYTE = 1 << 30


def keep_freed_memory() -> bool:
    """Stop malloc from giving memory back to the kernel in this process; False where libc is not glibc.

    Page faults otherwise take a third of a training step of the demo's base.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    options = {_M_MMAP_THRESHOLD: _GIBIBYTE, _M_TRIM_THRESHOLD: _GIBIBYTE, _M_TOP_PAD: _GIBIBYTE // 4}
    accepted = [bool(mallopt(option, value)) for option, value in options.items()]
    return all(accepted)

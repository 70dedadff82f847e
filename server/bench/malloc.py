"""glibc's malloc, set alike for every side of a comparison: without it, page faults of freed and asked-for-again memory are a
third of the time of some sides and none of others'."""

import ctypes
import sys
from collections.abc import Mapping
from typing import NamedTuple

_GIBIBYTE = 1 << 30


class _Setting(NamedTuple):
    option: int  # of mallopt
    variable: str  # of the environment, for processes that are started
    value: int


_SETTINGS = (
    _Setting(-3, "MALLOC_MMAP_THRESHOLD_", _GIBIBYTE),
    _Setting(-1, "MALLOC_TRIM_THRESHOLD_", _GIBIBYTE),
    _Setting(-2, "MALLOC_TOP_PAD_", _GIBIBYTE // 4),
)
# Heaps of other threads are too small for tensors, whatever the threshold, and a server computes in such a thread. When torch
# has been imported it is too late to change that; here all sides run in the main thread.
_OTHER_THREADS = {"MALLOC_ARENA_MAX": "1"}


def tune_malloc() -> bool:
    """Let malloc keep what this process's main thread frees; False where libc is not glibc, or refuses."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    accepted = [bool(mallopt(setting.option, setting.value)) for setting in _SETTINGS]
    return all(accepted)


def malloc_environment() -> Mapping[str, str]:
    """The same for every thread of a process to be started: variables of its environment."""
    return {setting.variable: str(setting.value) for setting in _SETTINGS} | _OTHER_THREADS

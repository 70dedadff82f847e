"""CPU of a server beside its engine, from what the kernel tells of its threads (Linux)."""

import os
from collections.abc import Mapping
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def thread_seconds(pid: int) -> Mapping[int, float]:
    """By thread, the CPU it has used so far, in user and in system mode. Threads that have ended are no longer told of.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    seconds = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        # The name, in brackets, may hold spaces.
        numbers = (folder / "stat").read_text().rpartition(")")[2].split()
        seconds[int(folder.name)] = (int(numbers[11]) + int(numbers[12])) / _TICKS
    return seconds


def beside_the_engine(before: Mapping[int, float], after: Mapping[int, float], threads: int = 1) -> float:
    """CPU seconds of all threads but the ``threads`` that used most: the engine's, where it was busy, and torch's others."""
    used = sorted(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
    return sum(used[:-threads])

"""CPU of a server beside its engine, from what the kernel tells of its threads (Linux)."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def thread_seconds(pid: int) -> Mapping[int, float]:
    """By thread, the CPU it has used so far, in user and in system mode. Threads that have ended are no longer told of.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    seconds = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            seconds[int(folder.name)] = _seconds(folder / "stat")
    return seconds


def _seconds(stat: Path) -> float:
    # The name, in brackets, may hold spaces.
    numbers = stat.read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / _TICKS


def process_seconds(title: str) -> float:
    """CPU that all processes whose command line begins with ``title`` have used so far.

    Raises:
        RuntimeError: there is none.
    """
    used = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(title.encode()):
                used.append(_seconds(folder / "stat"))
        except OSError:
            continue  # it has ended meanwhile
    if not used:
        raise RuntimeError(f"no process {title} is seen in /proc")
    return sum(used)


def beside_the_engine(before: Mapping[int, float], after: Mapping[int, float], threads: int = 1) -> float:
    """CPU seconds of all threads but the ``threads`` that used most: the engine's, where it was busy, and torch's others."""
    used = sorted(seconds - before.get(thread, 0.0) for thread, seconds in after.items())
    return sum(used[:-threads])

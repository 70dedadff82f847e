"""What there is to run on: cores, memory, devices."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Device:
    """``name`` is what a deployment calls it; memory in bytes, ``free`` as it is now."""

    name: str
    title: str
    total: int
    free: int


@dataclass(frozen=True)
class Machine:
    """``cores``: those that this process may use; ``threads``: what a forward uses unless it is told otherwise; ``devices``:
    the CPU first.
    """

    cores: int
    threads: int
    devices: tuple[Device, ...]

    def device(self, name: str) -> Device | None:
        """The device of that name (``cuda`` is the first GPU); None where it is not there."""
        wanted = "cuda:0" if name == "cuda" else name
        return next((one for one in self.devices if one.name == wanted), None)


def this_machine() -> Machine:
    """The machine it runs on, as torch sees it."""
    import torch

    total, free = host_memory()
    devices = [Device("cpu", f"{torch.backends.cpu.get_cpu_capability()} CPU", total, free)]
    for index in range(torch.cuda.device_count()):
        unused, whole = torch.cuda.mem_get_info(index)
        devices.append(Device(f"cuda:{index}", torch.cuda.get_device_name(index), whole, unused))
    return Machine(_cores(), torch.get_num_threads(), tuple(devices))


def host_memory(root: Path = Path("/")) -> tuple[int, int]:
    """Bytes of memory that this process may have in all, and of these what is still to be had: of the machine, or of the
    container it is in, whichever is less. ``root``: where the files of the system lie.
    """
    total, free = _machine_memory(root / "proc/meminfo")
    limit, used = _container_memory(root / "sys/fs/cgroup")
    if limit is None:
        return total, free
    return min(total, limit), max(0, min(free, limit - used))


def _machine_memory(meminfo: Path) -> tuple[int, int]:
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        return _kilobytes(fields["MemTotal"]), _kilobytes(fields["MemAvailable"])
    except (OSError, KeyError, ValueError):
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # not on Linux
        return whole, whole


def _container_memory(group: Path) -> tuple[int | None, int]:
    """The limit of a control group (version 2), None where there is none, and what it uses but for files it could drop."""
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None, 0
        used = int((group / "memory.current").read_text())
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = next((int(value) for name, value in lines if name == "inactive_file"), 0)
        return int(limit), max(0, used - files)
    except (OSError, ValueError):
        return None, 0


def _kilobytes(text: str) -> int:
    return int(text.split()[0]) * 1024


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""How fast this machine reads memory, with the threads torch has here."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

BYTES = 512 << 20
"""Of a probe: more than any cache holds."""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes per second. ``copy``: read and written ones together; ``read``: of a matrix that a vector is multiplied with."""

    copy: float
    read: float

    @property
    def best(self) -> float:
        """The faster of the two, so that a floor is not set too high."""
        return max(self.copy, self.read)


def measure_bandwidth(device: torch.device, size: int = BYTES, repeats: int = 7) -> Bandwidth:
    """The best of ``repeats`` probes of ``size`` bytes each: what else runs can only make them slower."""
    values = torch.ones(size // 4, device=device)
    target = torch.empty_like(values)
    matrix, vector = values.view(-1, 1024), torch.ones(1024, device=device)
    copied = _best_seconds(lambda: target.copy_(values), device, repeats)
    read = _best_seconds(lambda: torch.mv(matrix, vector), device, repeats)
    return Bandwidth(2 * size / copied, size / read)


def _best_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    work()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""How far is a step from what reading the weights alone would take?"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.bench.bandwidth import Bandwidth, measure_bandwidth
from server.bench.result import Row
from server.bench.scenarios.cost import CONTEXT, EACH
from server.bench.setup import Setup
from server.bench.steady import Steady
from server.bench.weighing import step_load

GPU_BAR = 0.70


@dataclass(frozen=True, slots=True)
class Floor:
    """``bytes`` that one guided step at one stream has to read, how fast memory is read, and the median step of every run.

    ``bar``: the share of a step's time that the floor has to be; None: none.
    """

    bytes: int
    bandwidth: Bandwidth
    seconds: tuple[float, ...]
    bar: float | None
    name: str = "byte floor"

    @property
    def floor(self) -> float:
        """Seconds in which the bytes can be read at best."""
        return self.bytes / self.bandwidth.best

    @property
    def share(self) -> float:
        """The floor over the median step: 1 is a step that only reads."""
        return self.floor / statistics.median(self.seconds)

    @property
    def reached(self) -> bool:
        """Whether the share is at least the bar."""
        return self.bar is None or self.share >= self.bar

    def row(self) -> Row:
        """The step, the floor, and what share of the step it is; shares of single runs."""
        shares = [self.floor / second for second in self.seconds]
        return Row(
            self.name,
            f"a step {1000 * statistics.median(self.seconds):.1f} ms",
            f"{self.bytes / 1e6:.0f} MB at {self.bandwidth.best / 1e9:.1f} GB/s {1000 * self.floor:.1f} ms",
            f"{self.share:.2f}",
            f"{min(shares):.2f} – {max(shares):.2f}",
            "none" if self.bar is None else f"≥ {self.bar:g}",
        )

    def record(self) -> Mapping[str, Any]:
        """All that went into it."""
        return {
            "name": self.name,
            "bytes": self.bytes,
            "copy_bytes_per_second": self.bandwidth.copy,
            "read_bytes_per_second": self.bandwidth.read,
            "floor_seconds": self.floor,
            "step_seconds": self.seconds,
            "share": self.share,
            "bar": self.bar,
        }


def byte_floor(setup: Setup) -> Floor:
    """One guided stream against the bytes it reads; the bar is for GPUs, a CPU also computes for a while."""
    family = setup.stock_family()
    device = family.base.device
    context = min(CONTEXT, *(member.max_length for member in (family.base, *family.rewards)))
    size = step_load(family, 1, context).bytes
    del family
    bandwidth = measure_bandwidth(device)
    engine = setup.engine(max_sequences=1)
    mix = {"base": 1.0} | dict.fromkeys(setup.rewards, 0.5)
    steps = EACH * (setup.runs + 1)
    steady = Steady(engine, 1, context, steps, mix)
    steady.begin()
    seconds = []
    for run in range(setup.runs + 1):
        median = statistics.median(steady.run(EACH))
        seconds += [median] if run else []
        setup.tick()
    steady.end()
    bar = GPU_BAR if device.type == "cuda" else None
    return Floor(size, bandwidth, tuple(seconds), bar)

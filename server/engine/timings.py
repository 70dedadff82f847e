"""Where the time of steps goes: into which member's forwards, and into mixing and drawing.

On a CPU by the clock. On a GPU by events, which are looked at in a later step, when they have happened anyway: nothing ever waits
for the device in order to be timed.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from server.engine.chunk import Chunk
from server.engine.histogram import Histogram, HistogramCounts

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds for what a step and its parts take."""

TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
"""Bounds for the tokens of a step."""

MEMORY = 0.99
"""What a step leaves of the weight of those before it in the overhead: about the last hundred steps count."""

Told = Callable[[float], None]
"""Hears how many seconds something took."""


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """What steps have taken since the engine was made; a step in which no member read anything is none.

    Attributes:
        step_tokens: of each step, the tokens of the member that read most.
        step_seconds: of each step, by the clock.
        forward_seconds: by member, of each forward it had a part in; members that run in one share its time as they share its
            tokens.
        mix_seconds: of each time that tokens were drawn, mixing and drawing, without the forwards of scorers in between.
        overhead: over about the last hundred steps in which the base read, their seconds over those of its forwards; None before
            there was one.
    """

    step_tokens: HistogramCounts
    step_seconds: HistogramCounts
    forward_seconds: Mapping[str, HistogramCounts]
    mix_seconds: HistogramCounts
    overhead: float | None


class Timings:
    """Times one engine; used from its thread only. ``base``: the member that the overhead is told against."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._step_tokens = Histogram(TOKENS)
        self._step_seconds = Histogram(SECONDS)
        self._forward_seconds: dict[str, Histogram] = {}
        self._mix_seconds = Histogram(SECONDS)
        self._began = 0.0
        self._tokens: dict[str, int] = {}  # read in this step, by member
        self._scored: list[float] | None = None  # seconds of forwards while a mix is timed
        self._recent_steps = self._recent_base = 0.0
        self._base_seconds = 0.0  # of the base's forwards that are in neither yet
        self._happening: deque[tuple[Any, Any, Told]] = deque()  # CUDA events before and after

    def begin_step(self) -> None:
        """A step begins; one that did not end is forgotten."""
        self._collect()
        self._tokens.clear()
        self._began = time.perf_counter()

    def end_step(self) -> None:
        """The step is over."""
        if not self._tokens:
            return
        seconds = time.perf_counter() - self._began
        self._step_seconds.observe(seconds)
        self._step_tokens.observe(max(self._tokens.values()))
        if self._base in self._tokens:
            self._recent_steps = MEMORY * self._recent_steps + seconds
            self._recent_base = MEMORY * self._recent_base + self._base_seconds
            self._base_seconds = 0.0

    @contextmanager
    def forward(self, chunks: Mapping[str, Sequence[Chunk]], device: torch.device) -> Iterator[None]:
        """Around a forward of these members over their chunks."""
        tokens = {name: sum(len(chunk.tokens) for chunk in own) for name, own in chunks.items()}
        for name, count in tokens.items():
            self._tokens[name] = self._tokens.get(name, 0) + count
        with self._timed(device, partial(self._ran, tokens, self._scored)):
            yield

    @contextmanager
    def mixing(self, device: torch.device) -> Iterator[None]:
        """Around the mixing and drawing of a step."""
        scored: list[float] = []
        self._scored = scored
        try:
            with self._timed(device, partial(self._mixed, scored)):
                yield
        finally:
            self._scored = None

    @property
    def now(self) -> EngineTimes:
        """What is known so far."""
        return EngineTimes(
            self._step_tokens.now,
            self._step_seconds.now,
            {name: histogram.now for name, histogram in self._forward_seconds.items()},
            self._mix_seconds.now,
            self._recent_steps / self._recent_base if self._recent_base else None,
        )

    def _ran(self, tokens: Mapping[str, int], scored: list[float] | None, seconds: float) -> None:
        whole = sum(tokens.values())
        for name, count in tokens.items():
            own = seconds * count / whole
            self._forward_seconds.setdefault(name, Histogram(SECONDS)).observe(own)
            if name == self._base:
                self._base_seconds += own
        if scored is not None:
            scored.append(seconds)

    def _mixed(self, scored: Sequence[float], seconds: float) -> None:
        self._mix_seconds.observe(max(0.0, seconds - sum(scored)))

    @contextmanager
    def _timed(self, device: torch.device, told: Told) -> Iterator[None]:
        """Tells how long the block took; nothing where it raises."""
        if device.type != "cuda":
            began = time.perf_counter()
            yield
            told(time.perf_counter() - began)
            return
        event: Any = torch.cuda.Event
        first, last = event(enable_timing=True), event(enable_timing=True)
        first.record(torch.cuda.current_stream(device))
        yield
        last.record(torch.cuda.current_stream(device))
        self._happening.append((first, last, told))

    def _collect(self) -> None:
        """What has happened on a GPU by now, in the order in which it did."""
        while self._happening and self._happening[0][1].query():
            first, last, told = self._happening.popleft()
            told(first.elapsed_time(last) / 1000)

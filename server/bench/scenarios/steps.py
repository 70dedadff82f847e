"""What does a step take, by batch, context and rewards?"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from arm_models.loading import ModelSource
from server.bench.growth import Cell, growths
from server.bench.result import Result, Row
from server.bench.setup import Setup
from server.bench.steady import Steady
from server.bench.weighing import cache_bytes

STEPS = 4
"""Timed steps of a cell for every run."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The sizes to measure; ``rewards`` counts full models and, from 1, adapters on the base."""

    batches: tuple[int, ...] = (1, 8, 32, 128)
    contexts: tuple[int, ...] = (128, 512, 1024, 2048, 4096)
    rewards: tuple[int, ...] = (0, 1, 2, 3, 4)


QUICK = Grid(batches=(1, 4), contexts=(128, 256), rewards=(0, 1, 3))


@dataclass(frozen=True, slots=True)
class StepTable:
    """Every cell, and how many were left out because the caches would have been too large or the context too long."""

    cells: tuple[Cell, ...]
    left_out: int

    @property
    def reached(self) -> bool:
        """There is no bar."""
        return True

    def row(self) -> Row:
        """How much was measured."""
        ordered = sorted(self.cells, key=lambda cell: cell.seconds)
        ours, peer = f"{len(self.cells)} cells", f"{self.left_out} left out"
        span = f"{1000 * ordered[0].seconds:.1f} – {1000 * ordered[-1].seconds:.1f} ms"
        return Row("engine steps", ours, peer, span, "", "none")

    def record(self) -> Mapping[str, Any]:
        """All cells."""
        return {
            "name": "engine steps",
            "unit": "seconds of a decode step",
            "cells": [asdict(cell) for cell in self.cells],
            "left_out": self.left_out,
        }


def engine_steps(setup: Setup) -> Sequence[Result]:
    """Median times of decode steps over a grid of sizes, and how they grow along each of its axes."""
    grid = QUICK if setup.limits.quick else Grid()
    cells: list[Cell] = []
    left_out = 0
    for kind, sources in _mixes(setup, grid):
        fitting = _fitting(setup, grid, sources)
        left_out += len(grid.contexts) * len(grid.batches) - len(fitting)
        cells += _measure(setup, kind, sources, fitting)
    return [StepTable(tuple(cells), left_out), *growths(cells)]


def _mixes(setup: Setup, grid: Grid) -> Iterator[tuple[str, Sequence[ModelSource]]]:
    most = setup.models.most_rewards
    for count in grid.rewards:
        if most is None or count <= most:
            yield "full", setup.models.sources(count)
    for count in grid.rewards:
        if count:
            yield "lora", setup.models.adapters(count)


def _fitting(setup: Setup, grid: Grid, sources: Sequence[ModelSource]) -> list[tuple[int, int]]:
    """(batch, context) for which there is room: in every model's context, and in memory for the caches."""
    family = setup.stock_family(sources)
    shortest = min(member.max_length for member in (family.base, *family.rewards))
    return [
        (batch, context)
        for context in grid.contexts
        for batch in grid.batches
        if context <= shortest and batch * cache_bytes(family, context) <= setup.limits.cache_bytes
    ]


def _measure(
    setup: Setup, kind: str, sources: Sequence[ModelSource], sizes: Sequence[tuple[int, int]]
) -> Iterator[Cell]:
    """The longest context first: it is read once, and the others begin as it does."""
    if not sizes:
        return
    longest = max(context for _, context in sizes)
    # Beside the largest cell there is room for what is kept of the longest prompt.
    tokens = 2 * max(batch * context for batch, context in sizes) + 2 * longest
    most = max(batch for batch, _ in sizes)
    engine = setup.engine(sources=sources, max_sequences=most, kv_tokens=tokens, prefix_share=0.5)
    mix = {source.name: 1.0 if source.name == "base" else 0.5 for source in sources}
    for batch, context in sorted(sizes, key=lambda size: (-size[1], size[0])):
        steady = Steady(engine, batch, context, STEPS * setup.runs, mix)
        steady.begin()
        seconds = statistics.median(steady.run(steady.steps))
        steady.end()
        for member in engine.members.values():
            member.cache.trim()
        setup.tick()
        yield Cell(kind, len(sources) - 1, batch, context, seconds)

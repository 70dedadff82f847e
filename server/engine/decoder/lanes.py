"""Which of the packed rows belong to which model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch


class Segment(NamedTuple):
    """Rows ``start`` to ``stop`` belong to the ``which``-th of something."""

    which: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Lanes:
    """Packed rows, lane after lane.

    Attributes:
        models: which rows go through which weights; a model's lanes lie side by side.
        adapters: which rows get which adapter's addition; rows of lanes without one are in none.
        alike: whether the adapters' rows are equally many and they follow each other, so that they go as one batch.
        factors: [rows, 1 + objectives] float32, 1 and the preference vector of each row of a conditioned adapter; None where
            there is no such adapter.
    """

    models: tuple[Segment, ...]
    adapters: tuple[Segment, ...]
    alike: bool
    factors: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        counts: Sequence[int],
        model_of: Sequence[int],
        adapter_of: Sequence[int | None],
        factors: torch.Tensor | None = None,
    ) -> "Lanes":
        """``counts``: rows of each lane; ``model_of``, ``adapter_of``: the lane's weights and adapter."""
        models: list[Segment] = []
        adapters: list[Segment] = []
        start = 0
        for count, model, adapter in zip(counts, model_of, adapter_of, strict=True):
            stop = start + count
            if not count:
                continue
            if models and models[-1].which == model:
                models[-1] = Segment(model, models[-1].start, stop)
            else:
                models.append(Segment(model, start, stop))
            if adapter is not None:
                adapters.append(Segment(adapter, start, stop))
            start = stop
        return cls(tuple(models), tuple(adapters), _alike(adapters), factors)


def _alike(segments: Sequence[Segment]) -> bool:
    if not segments:
        return False
    first = segments[0]
    size = first.stop - first.start
    return all(
        segment == (first.which + number, first.start + number * size, first.start + (number + 1) * size)
        for number, segment in enumerate(segments)
    )

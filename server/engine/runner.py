"""Packs the chunks of one or several members into one row of tokens and runs them in one forward."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from server.engine.attention.attention_layout import AttentionLayout
from server.engine.chunk import Chunk
from server.engine.transfer import fill_in, upload


class Layouts(Protocol):
    """Says what packed tokens are: :class:`server.engine.attention.slab_layout.SlabLayouts` or
    :class:`server.engine.attention.paged_layout.PagedLayouts`."""

    def lay_out(
        self, chunks: Sequence[tuple[int, Chunk]], multiple: int
    ) -> tuple[AttentionLayout, list[int]]:
        """The layout of ``chunks``, each with its lane, and for each the index of its first token; padded to a multiple."""


class PackedModel(Protocol):
    """A forward over packed tokens: :class:`server.engine.decoder.Decoder` or :class:`server.engine.stock.StockModel`."""

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        counts: Sequence[int],
        keep: torch.Tensor,
        kept: Sequence[int],
        layout: AttentionLayout,
        conditions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See :meth:`server.engine.decoder.Decoder.forward`."""

    def vacate(self, lanes: Collection[int]) -> None:
        """See :meth:`server.engine.decoder.Decoder.vacate`."""


class MemberRunner(Protocol):
    """Runs the members that are its lanes: :class:`Runner`, or :class:`server.engine.sharding.leader.LedRunner` where other
    processes have a part in it."""

    @property
    def lanes(self) -> "tuple[RunnerLane, ...]":
        """Its members."""

    @property
    def model(self) -> PackedModel | None:
        """The forward itself; None where it is not this process's alone."""

    def forward(
        self, chunks: Mapping[str, Sequence[Chunk]], drawn: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """See :meth:`Runner.forward`."""

    def vacate(self, name: str) -> None:
        """See :meth:`Runner.vacate`."""


@dataclass(frozen=True, slots=True)
class RunnerLane:
    """A member of a forward: its name, how many tokens it has logits for, how many numbers it is conditioned on."""

    name: str
    vocab_size: int
    objectives: int = 0


class Runner:
    """The members that run in one forward; each is a lane of it."""

    def __init__(
        self,
        model: PackedModel,
        lanes: Sequence[RunnerLane],
        layouts: Layouts,
        device: torch.device,
        row_multiple: int = 1,
    ) -> None:
        """``row_multiple``: forwards are padded to a multiple of so many rows; with one lane only.

        Raises:
            ValueError: padding is asked for with several lanes.
        """
        if row_multiple > 1 and len(lanes) > 1:
            raise ValueError("only the forward of one member can be padded")
        self.model = model
        self.lanes = tuple(lanes)
        self._layouts = layouts
        self._device = device
        self._row_multiple = row_multiple
        self._objectives = max(lane.objectives for lane in lanes)
        self._vacant: set[int] = set()

    def vacate(self, name: str) -> None:
        """A member is gone: it is never run again, and what it alone held of the forward is given back. With the last of them
        goes the runner."""
        self._vacant |= {index for index, lane in enumerate(self.lanes) if lane.name == name}
        if len(self._vacant) < len(self.lanes):
            self.model.vacate(self._vacant)

    def forward(
        self, chunks: Mapping[str, Sequence[Chunk]], drawn: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Compute every chunk of every member, fill the caches, and return next-token logits.

        Every chunk's context must have room reserved in its member's cache; ``chunks`` names lanes of this runner only.
        ``drawn`` [rows] int64: the tokens of the step before, where chunks have some that only the device knows.

        Returns:
            by member, [Σ chunk.logits, vocab_size] float32 raw logits, in the order of its chunks and their tokens.
        """
        ordered = [(lane, chunk) for lane in range(len(self.lanes)) for chunk in self._chunks(chunks, lane)]
        layout, offsets = self._layouts.lay_out(ordered, self._row_multiple)
        tokens, positions = [0] * layout.tokens, [0] * layout.tokens
        counts, kept = [0] * len(self.lanes), [0] * len(self.lanes)
        wanted: list[int] = []
        for (lane, chunk), offset in zip(ordered, offsets, strict=True):
            end = offset + len(chunk.tokens)
            tokens[offset:end] = chunk.tokens
            positions[offset:end] = chunk.positions
            wanted.extend(range(end - chunk.logits, end))
            counts[lane] += len(chunk.tokens)
            kept[lane] += chunk.logits
        counts[-1] += layout.padding
        known = fill_in(upload(tokens, self._device, torch.long), drawn)
        conditions = self._conditions(ordered, offsets, layout.tokens)
        logits = self._run(known, positions, counts, wanted, kept, layout, conditions)
        return self._by_member(chunks, logits, kept)

    def _conditions(
        self, ordered: Sequence[tuple[int, Chunk]], offsets: Sequence[int], rows: int
    ) -> torch.Tensor | None:
        """[rows, objectives] float32 what each row is conditioned on, 0 where on nothing; None where no lane is."""
        if not self._objectives:
            return None
        vectors: list[Sequence[float]] = [[0.0] * self._objectives] * rows
        for (_, chunk), offset in zip(ordered, offsets, strict=True):
            if chunk.condition:
                vectors[offset : offset + len(chunk.tokens)] = [chunk.condition] * len(chunk.tokens)
        return upload(vectors, self._device, torch.float32)

    def _chunks(self, chunks: Mapping[str, Sequence[Chunk]], lane: int) -> Sequence[Chunk]:
        return chunks.get(self.lanes[lane].name, ())

    def _run(
        self,
        tokens: torch.Tensor,
        positions: list[int],
        counts: list[int],
        wanted: list[int],
        kept: list[int],
        layout: AttentionLayout,
        conditions: torch.Tensor | None,
    ) -> torch.Tensor:
        """Logits [len(wanted), vocab] of these packed rows, in the order in which they are wanted."""
        device = self._device
        padding = -len(wanted) % self._row_multiple
        keep = wanted + wanted[-1:] * padding
        kept = [*kept[:-1], kept[-1] + padding]
        logits = self.model.forward(
            tokens,
            upload(positions, device, torch.long),
            counts,
            upload(keep, device, torch.long),
            kept,
            layout,
            conditions,
        )
        return logits[: len(wanted)]

    def _by_member(
        self, chunks: Mapping[str, Sequence[Chunk]], logits: torch.Tensor, kept: Sequence[int]
    ) -> dict[str, torch.Tensor]:
        parts: dict[str, torch.Tensor] = {}
        start = 0
        for lane, count in zip(self.lanes, kept, strict=True):
            if lane.name in chunks:
                parts[lane.name] = logits[start : start + count, : lane.vocab_size].float()
            start += count
        return parts

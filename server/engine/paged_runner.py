"""Runs members whose keys and values lie in blocks: decode steps as recordings, everything else as it comes."""

from collections.abc import Mapping, Sequence

import torch

from server.engine.attention.paged_layout import PagedLayout, PagedLayouts
from server.engine.cache.paged_cache import PagedKVCache
from server.engine.chunk import Chunk
from server.engine.cuda_graph import DecodeBatch, DecodeGraphs, DecodeRow, Recorder
from server.engine.runner import PackedModel, Runner, RunnerLane
from server.engine.transfer import upload


class PagedRunner(Runner):
    """A :class:`Runner` over paged caches, one for each lane, all in one store."""

    def __init__(
        self,
        model: PackedModel,
        lanes: Sequence[RunnerLane],
        caches: Sequence[PagedKVCache],
        device: torch.device,
        row_multiple: int = 1,
    ) -> None:
        """As :class:`Runner`."""
        layouts = PagedLayouts(caches, device)
        super().__init__(model, lanes, layouts, device, row_multiple)
        self._caches = layouts.caches
        self._store = layouts.store
        self._graphs: DecodeGraphs | None = None

    @property
    def graphs(self) -> DecodeGraphs | None:
        """The recordings of decode steps; None until :meth:`record`."""
        return self._graphs

    def record(self, max_rows: int, max_length: int, recorder: Recorder | None) -> None:
        """From now on, run steps that only decode, with at most ``max_rows`` tokens a lane, by recordings of them.

        ``max_length``: longest context in tokens. Without ``recorder`` they run as recordings would, on fixed shapes, but are not
        recorded.
        """
        self._graphs = DecodeGraphs(
            self._decode,
            len(self.lanes),
            max_rows,
            max_length,
            self._device,
            recorder,
            self._objectives,
        )

    def vacate(self, name: str) -> None:
        """As :meth:`Runner.vacate`. Recordings read the weights where they were, so they are made again as steps need them."""
        super().vacate(name)
        if len(self._vacant) == len(self.lanes):
            self._graphs = None  # they know this runner: together they would stay
        elif self._graphs is not None:
            self._graphs.forget()

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Make the recordings that the first requests would wait for."""
        if self._graphs is not None:
            self._graphs.warm_up()

    def forward(
        self, chunks: Mapping[str, Sequence[Chunk]], drawn: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As :meth:`Runner.forward`."""
        lanes = [chunks.get(lane.name, ()) for lane in self.lanes]
        if self._graphs is None or not _decodes(lanes, self._graphs):
            return super().forward(chunks, drawn)
        results = self._graphs.run([self._rows(index, lane) for index, lane in enumerate(lanes)], drawn)
        # A copy: the next step writes its logits where these are.
        return {
            lane.name: _wanted(part, logits)[:, : lane.vocab_size].to(torch.float32, copy=True)
            for lane, part, logits in zip(self.lanes, lanes, results, strict=True)
            if lane.name in chunks
        }

    def _rows(self, lane: int, chunks: Sequence[Chunk]) -> list[DecodeRow]:
        cache = self._caches[lane]
        return [
            DecodeRow(token, position, cache.table(chunk.owner), chunk.condition)
            for chunk in chunks
            for position, token in enumerate(chunk.tokens, chunk.start)
        ]

    def _decode(self, batch: DecodeBatch) -> torch.Tensor:
        """Logits [rows, head size] behind every row."""
        rows = sum(batch.counts)
        layout = PagedLayout(
            tokens=rows,
            padding=0,
            store=self._store,
            slots=batch.slots,
            singles=None,
            tables=batch.tables,
            lengths=batch.lengths,
        )
        keep = torch.arange(rows, device=self._device)
        conditions = batch.conditions if self._objectives else None
        return self.model.forward(
            batch.tokens.long(), batch.positions.long(), batch.counts, keep, batch.counts, layout, conditions
        )


def _decodes(lanes: Sequence[Sequence[Chunk]], graphs: DecodeGraphs) -> bool:
    """Whether this is a step that recordings are made for."""
    rows = max(sum(len(chunk.tokens) for chunk in lane) for lane in lanes)
    length = max((chunk.start + len(chunk.tokens) for lane in lanes for chunk in lane), default=0)
    return not any(chunk.is_prompt or chunk.apart for lane in lanes for chunk in lane) and graphs.takes(
        rows, length
    )


def _wanted(chunks: Sequence[Chunk], logits: torch.Tensor) -> torch.Tensor:
    """The rows of ``logits`` [tokens, vocab] behind each chunk's last ``chunk.logits`` tokens."""
    wanted: list[int] = []
    end = 0
    for chunk in chunks:
        end += len(chunk.tokens)
        wanted.extend(range(end - chunk.logits, end))
    if len(wanted) == len(logits):
        return logits
    return logits.index_select(0, upload(wanted, logits.device, torch.long))

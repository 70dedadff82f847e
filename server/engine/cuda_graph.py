"""Decode steps recorded once and replayed: the GPU runs a forward without waiting for Python.

A recording has fixed shapes and fixed memory, so there is one for every *bucket*: which lanes run, how many rows each has, how
wide the block tables are. A step is filled up to its bucket with rows that read and write the scratch block and are thrown away.

Everything but :class:`CudaRecorder` runs on any device.
"""

import logging
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from server.engine.cache.kv_cache import BLOCK
from server.engine.cache.paged_cache import SCRATCH
from server.engine.transfer import fill_in

NARROWEST_TABLE = 16
"""Blocks of the narrowest table; each wider one has four times as many. Kernels skip what lies behind a row's length."""

_TOKEN, _POSITION, _CONDITION = 0, 1, 2
"""Columns of the buffer that a step is copied into; behind the condition, the table has the rest."""


class DecodeRow(NamedTuple):
    """One token of one context, as a :class:`~server.engine.chunk.Chunk` has them; ``table`` has the context's blocks, that of
    ``position`` among them; ``condition`` what the row is conditioned on, if its lane is."""

    token: int
    position: int
    table: Sequence[int]
    condition: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class DecodeBatch:
    """What a recorded forward reads. Views of memory that stays where it is.

    Attributes:
        tokens, positions: [rows] int32, lane after lane.
        tables: [rows, width] int32.
        counts: rows of each lane, padding included.
        conditions: [rows, objectives] float32, 0 in rows that are not conditioned; objectives is 0 where no lane is.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    tables: torch.Tensor
    counts: tuple[int, ...]
    conditions: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """[rows] int32 tokens that each row attends to: up to itself."""
        return self.positions + 1

    @property
    def slots(self) -> torch.Tensor:
        """[rows] int64 where each row's key goes, among the store's blocks laid end to end."""
        positions = self.positions.long()
        blocks = self.tables.gather(1, (positions // BLOCK)[:, None])[:, 0]
        return blocks.long() * BLOCK + positions % BLOCK


Forward = Callable[[DecodeBatch], torch.Tensor]
"""Logits [rows, vocab] of a batch, on its device, without a host sync and without state but the batch's."""


class Recording(Protocol):
    """A forward that runs again on what its memory holds then, and leaves its output where the first did."""

    def replay(self) -> None:
        """Queue it."""


class Recorder(Protocol):
    """Makes recordings."""

    def record(self, run: Callable[[], torch.Tensor]) -> tuple[Recording, torch.Tensor]:
        """Run once or more, and record; the recording and its output. Raises whatever ``run`` does that cannot be recorded."""


class CudaRecorder:
    """CUDA graphs of one device; their scratch memory is shared, since one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None  # a handle of the allocator's

    def record(self, run: Callable[[], torch.Tensor]) -> tuple[Recording, torch.Tensor]:
        """Warm up on a side stream (kernels are compiled and libraries set up there, which a capture must not see), capture."""
        with torch.cuda.device(self._device):
            side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            main = torch.cuda.current_stream()
            side.wait_stream(main)
            with torch.cuda.stream(side):
                for _ in range(2):
                    run()
            main.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile: only what this one does is held against the capture.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = run()
            self._pool = self._pool or graph.pool()
        return graph, output


class DecodeGraphs:
    """The recordings of one runner, made when a bucket is first used.

    Args:
        forward: what is recorded.
        lanes: members of the runner.
        max_rows: rows a lane may have; a step with more is not for recordings.
        max_length: longest context in tokens.
        recorder: None runs the forward itself on every batch.
        objectives: numbers that rows of a conditioned lane are conditioned on.
    """

    def __init__(
        self,
        forward: Forward,
        lanes: int,
        max_rows: int,
        max_length: int,
        device: torch.device,
        recorder: Recorder | None,
        objectives: int = 0,
    ) -> None:
        self._forward = forward
        self._objectives = objectives
        self._table = _CONDITION + objectives
        self._lanes = lanes
        self.row_buckets = _row_buckets(max_rows)
        self.table_widths = _table_widths(-(-max_length // BLOCK))
        self._recorder = recorder
        self._recordings: dict[tuple[tuple[int, ...], int], tuple[Recording, torch.Tensor]] = {}
        self._upload = _Upload(lanes * max_rows, self._table + self.table_widths[-1], device)

    def __len__(self) -> int:
        """Recordings made."""
        return len(self._recordings)

    @property
    def records(self) -> bool:
        """Whether steps are recorded; False without a recorder and once one has failed."""
        return self._recorder is not None

    def takes(self, rows: int, length: int) -> bool:
        """Whether a step has a bucket in which no lane has more than ``rows`` rows and none attends to more than ``length``
        tokens."""
        return 0 < rows <= self.row_buckets[-1] and length <= self.table_widths[-1] * BLOCK

    def run(
        self, lanes: Sequence[Sequence[DecodeRow]], drawn: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Compute one step.

        Args:
            lanes: the rows of every lane; none for those that do not run. Must be what :meth:`takes` accepts.
            drawn: [rows] int64, the tokens of the step before, where rows have some that only the device knows.

        Returns:
            per lane, [its rows, vocab] logits: views that the next call overwrites.

        Raises:
            ValueError: a lane has more rows, or a row a longer context, than there are buckets for.
        """
        counts, width = self._bucket(lanes)
        self._fill(lanes, counts, width)
        if drawn is not None:
            tokens = self._batch(counts, width).tokens
            tokens.copy_(fill_in(tokens, drawn))
        logits = self._logits(counts, width)
        results, start = [], 0
        for lane, count in zip(lanes, counts, strict=True):
            results.append(logits[start : start + len(lane)])
            start += count
        return results

    def warm_up(self) -> None:
        """Record every number of rows for all lanes together, at the narrowest tables."""
        for rows in self.row_buckets:
            if self.records:
                self.run([[DecodeRow(0, 0, (SCRATCH,))] * rows] * self._lanes)

    def forget(self) -> None:
        """Drop all recordings: each is made again when its bucket is next used."""
        self._recordings.clear()

    def _bucket(self, lanes: Sequence[Sequence[DecodeRow]]) -> tuple[tuple[int, ...], int]:
        """Rows of each lane, the same for all that run, and the width of the tables."""
        most = max(map(len, lanes))
        length = max((row.position + 1 for lane in lanes for row in lane), default=0)
        if not self.takes(most, length):
            raise ValueError(
                f"a lane may have 1 to {self.row_buckets[-1]} rows of at most {self.table_widths[-1] * BLOCK} tokens, "
                f"not {most} of {length}"
            )
        rows = next(size for size in self.row_buckets if size >= most)
        width = next(size for size in self.table_widths if size * BLOCK >= length)
        return tuple(rows if lane else 0 for lane in lanes), width

    def _fill(self, lanes: Sequence[Sequence[DecodeRow]], counts: Sequence[int], width: int) -> None:
        lines: list[list[int]] = []
        none = (0,) * self._objectives
        for lane, count in zip(lanes, counts, strict=True):
            for row in lane:
                table = list(row.table[:width])
                condition = _bits(row.condition) if row.condition else none
                lines.append([row.token, row.position, *condition, *table, *[SCRATCH] * (width - len(table))])
            lines.extend([[0, 0, *none, *[SCRATCH] * width]] * (count - len(lane)))
        self._upload.send(lines)

    def _logits(self, counts: tuple[int, ...], width: int) -> torch.Tensor:
        if self._recorder is None:
            return self._forward(self._batch(counts, width))
        key = counts, width
        if key not in self._recordings:
            made = self._record(counts, width)
            if made is None:
                return self._forward(self._batch(counts, width))
            self._recordings[key] = made
        recording, logits = self._recordings[key]
        recording.replay()
        return logits

    def _record(self, counts: tuple[int, ...], width: int) -> tuple[Recording, torch.Tensor] | None:
        """A recording of this bucket; None, and no more of any, when it fails: a slow server is better than none."""
        assert self._recorder is not None
        batch = self._batch(counts, width)
        try:
            return self._recorder.record(lambda: self._forward(batch))
        except Exception:
            logging.getLogger(__name__).exception(
                "decode steps run without CUDA graphs, more slowly: a batch of %s rows could not be captured",
                counts,
            )
            self._recorder = None
            self._recordings.clear()
            return None

    def _batch(self, counts: tuple[int, ...], width: int) -> DecodeBatch:
        held = self._upload.target[: sum(counts)]
        table = held[:, self._table : self._table + width]
        conditions = held[:, _CONDITION : self._table].view(torch.float32)
        return DecodeBatch(held[:, _TOKEN], held[:, _POSITION], table, counts, conditions)


class _Upload:
    """A buffer [rows, columns] int32 on the device, and two on the host to fill it from in turn."""

    def __init__(self, rows: int, columns: int, device: torch.device) -> None:
        self.target = torch.zeros(rows, columns, dtype=torch.int32, device=device)
        self._on_gpu = device.type == "cuda"
        self._pages = [
            torch.zeros(rows, columns, dtype=torch.int32, pin_memory=self._on_gpu) for _ in range(2)
        ]
        self._sent: list[Any] = [None, None]  # CUDA events
        self._next = 0

    def send(self, lines: Sequence[Sequence[int]]) -> None:
        """Copy ``lines`` into the first rows and columns of the target."""
        turn, self._next = self._next, 1 - self._next
        event = self._sent[turn]
        if event is not None:
            event.synchronize()  # its last copy may still be reading
        rows = self._pages[turn][: len(lines)]
        rows[:, : len(lines[0])] = torch.tensor(lines, dtype=torch.int32)
        self.target[: len(lines)].copy_(rows, non_blocking=self._on_gpu)
        if self._on_gpu:
            self._sent[turn] = event or torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._sent[turn].record(torch.cuda.current_stream(self.target.device))


def _bits(values: Sequence[float]) -> tuple[int, ...]:
    """The int32 that have the bits of ``values`` in float32."""
    return struct.unpack(f"{len(values)}i", struct.pack(f"{len(values)}f", *values))


def _row_buckets(most: int) -> tuple[int, ...]:
    """1, 2, 4, … and ``most``."""
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return (*powers, most)


def _table_widths(most: int) -> tuple[int, ...]:
    """:data:`NARROWEST_TABLE` blocks, four times as many, … and ``most``."""
    widths, width = [], NARROWEST_TABLE
    while width < most:
        widths.append(width)
        width *= 4
    return (*widths, most)

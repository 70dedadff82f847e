"""Replayed steps give what the forward gives, whatever the bucket; padding leaves no trace; a failure is said once.

Recordings are made by :class:`TraceRecorder` here, which keeps tensor operations and nothing of the Python around them, as a CUDA
graph does; tests marked ``gpu`` make real ones.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from server.engine.cache.kv_cache import BLOCK
from server.engine.cache.paged_cache import SCRATCH
from server.engine.cuda_graph import CudaRecorder, DecodeBatch, DecodeGraphs, DecodeRow, Recorder, Recording

VOCAB, BLOCKS, LONGEST = 11, 46, 100 * BLOCK


@dataclass
class Trace:
    """Tensor operations of one run, done again on the same memory."""

    operations: Callable[[], torch.Tensor]
    output: torch.Tensor

    def replay(self) -> None:
        self.output.copy_(self.operations())


class TraceRecorder:
    """Records on any device; ``made`` counts."""

    def __init__(self) -> None:
        self.made = 0

    def record(self, run: Callable[[], torch.Tensor]) -> tuple[Recording, torch.Tensor]:
        output = run().clone()
        operations = make_fx(run)()
        self.made += 1
        return Trace(operations, output), output


class RefusingRecorder:
    """Fails, as a capture does when the forward waits for the device."""

    def __init__(self) -> None:
        self.asked = 0

    def record(self, run: Callable[[], torch.Tensor]) -> tuple[Recording, torch.Tensor]:  # noqa: ARG002
        self.asked += 1
        raise RuntimeError("operation not permitted when stream is capturing")


class Toy:
    """A forward with a cache: each token adds itself to its slot, and its logits tell of all that its context holds."""

    def __init__(self, device: str = "cpu") -> None:
        self.cache = torch.zeros(BLOCKS * BLOCK, device=device)
        self.runs = 0

    def __call__(self, batch: DecodeBatch) -> torch.Tensor:
        self.runs += 1
        self.cache.index_copy_(0, batch.slots, batch.tokens.float())
        place = torch.arange(batch.tables.shape[1] * BLOCK, device=self.cache.device)
        held = self.cache[batch.tables.long()[:, place // BLOCK] * BLOCK + place % BLOCK]
        total = held.masked_fill(place >= batch.lengths[:, None], 0).sum(-1)
        # Python's own numbers are recorded as they are, so lanes must be in what is recorded, not looked up later.
        lane = torch.cat([torch.full((n,), i, device=self.cache.device) for i, n in enumerate(batch.counts)])
        return (total + 1000.0 * lane)[:, None] * torch.arange(1.0, VOCAB + 1, device=self.cache.device)


def graphs(forward: Toy, recorder: Recorder | None, *, lanes: int = 1, max_rows: int = 6) -> DecodeGraphs:
    return DecodeGraphs(forward, lanes, max_rows, LONGEST, forward.cache.device, recorder)


def steps(count: int, lanes: int, seed: int) -> list[list[list[DecodeRow]]]:
    """Ragged decoding of contexts with blocks anywhere; lanes come and go."""
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator))

    owned = torch.randperm(BLOCKS - 1, generator=generator).add(1).view(lanes, -1).tolist()
    taken = []
    for _ in range(count):
        step = []
        for lane in range(lanes):
            rows = draw(5) if lane else 1 + draw(5)
            tables = [owned[lane][3 * row : 3 * row + 3] for row in range(rows)]
            step.append([DecodeRow(1 + draw(9), draw(3 * BLOCK), table) for table in tables])
        taken.append(step)
    return taken


def test_buckets_are_powers_of_two_and_the_most() -> None:
    assert graphs(Toy(), None, max_rows=6).row_buckets == (1, 2, 4, 6)
    assert graphs(Toy(), None, max_rows=8).row_buckets == (1, 2, 4, 8)
    assert graphs(Toy(), None, max_rows=1).row_buckets == (1,)
    assert graphs(Toy(), None).table_widths == (16, 64, 100)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("recorder", [TraceRecorder, lambda: None], ids=["recorded", "run"])
def test_every_step_gives_what_its_rows_alone_give(
    recorder: Callable[[], Recorder | None], lanes: int
) -> None:
    """Against a dictionary of what every context holds, row by row, over many steps in every bucket."""
    toy = Toy()
    made = graphs(toy, recorder(), lanes=lanes)
    held: dict[int, float] = {}
    for step in steps(60, lanes, seed=lanes):
        results = made.run(step)
        for row in itertools.chain(*step):
            held[row.table[row.position // BLOCK] * BLOCK + row.position % BLOCK] = float(row.token)
        for lane, (rows, logits) in enumerate(zip(step, results, strict=True)):
            assert logits.shape == (len(rows), VOCAB)
            for row, got in zip(rows, logits, strict=True):
                slots = [row.table[n // BLOCK] * BLOCK + n % BLOCK for n in range(row.position + 1)]
                assert got[0] == sum(held.get(slot, 0.0) for slot in slots) + 1000 * lane
    written = {slot: float(toy.cache[slot]) for slot in range((SCRATCH + 1) * BLOCK, BLOCKS * BLOCK)}
    assert {slot: token for slot, token in written.items() if token} == held


def test_a_bucket_is_recorded_once_and_then_python_is_not_asked() -> None:
    toy, recorder = Toy(), TraceRecorder()
    made = graphs(toy, recorder)
    table = [1, 2, 3]
    for tokens in ([1, 2, 3], [4, 5, 6, 7], [8, 9, 1]):
        made.run([[DecodeRow(token, 5, table) for token in tokens]])
    assert (recorder.made, len(made)) == (1, 1)
    runs = toy.runs
    made.run([[DecodeRow(1, 6, table)] * 4])
    assert toy.runs == runs
    made.run([[DecodeRow(1, 6, table)] * 5])
    assert recorder.made == 2
    made.run([[DecodeRow(1, 17 * BLOCK, [1, 2, 3] * 6)] * 4])
    assert recorder.made == 3


def test_what_was_recorded_can_be_forgotten_and_is_recorded_again() -> None:
    toy, recorder = Toy(), TraceRecorder()
    made = graphs(toy, recorder)
    (before,) = made.run([[DecodeRow(3, 5, [1, 2, 3])]])
    expected = before.clone()
    made.forget()
    assert len(made) == 0
    (again,) = made.run([[DecodeRow(3, 5, [1, 2, 3])]])
    assert torch.equal(again, expected)
    assert (recorder.made, len(made)) == (2, 1)


def test_each_set_of_lanes_has_its_own_recordings() -> None:
    toy, recorder = Toy(), TraceRecorder()
    made = graphs(toy, recorder, lanes=2)
    one = [DecodeRow(3, 0, [1])]
    assert [len(part) for part in made.run([one, one])] == [1, 1]
    assert [len(part) for part in made.run([[], one])] == [0, 1]
    assert [len(part) for part in made.run([one, []])] == [1, 0]
    assert recorder.made == 3
    assert made.run([[], one])[1][0, 0] == 1003
    made.run([one, one * 3])
    assert recorder.made == 4


def test_warming_up_records_every_number_of_rows() -> None:
    recorder = TraceRecorder()
    made = graphs(Toy(), recorder, lanes=2)
    made.warm_up()
    assert recorder.made == 4
    made.run([[DecodeRow(1, 70, [1, 2])] * 3, [DecodeRow(1, 70, [3, 4])] * 2])
    assert recorder.made == 4


def test_when_a_capture_fails_the_forward_runs_itself_and_it_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy, recorder = Toy(), RefusingRecorder()
    made = graphs(toy, recorder)
    with caplog.at_level(logging.ERROR):
        got = [float(made.run([[DecodeRow(n, n, [1])] * n])[0][0, 0]) for n in (1, 2, 3)]
    assert got == [1, 3, 6]
    assert recorder.asked == 1
    assert len(caplog.records) == 1
    assert "without CUDA graphs" in caplog.text
    assert "not permitted when stream is capturing" in caplog.text
    assert not made.records


@pytest.mark.parametrize(("rows", "position"), [(0, 0), (7, 0), (1, LONGEST)])
def test_a_step_without_a_bucket_is_refused(rows: int, position: int) -> None:
    made = graphs(Toy(), None)
    assert made.takes(6, LONGEST)
    assert not made.takes(rows, position + 1)
    with pytest.raises(ValueError, match="1 to 6 rows of at most 6400 tokens"):
        made.run([[DecodeRow(1, position, [1])] * rows])


def run_all(made: DecodeGraphs, taken: Sequence[list[list[DecodeRow]]]) -> list[torch.Tensor]:
    return [torch.cat(made.run(step)).clone() for step in taken]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_replayed_steps_are_bit_equal_to_run_ones() -> None:
    taken = steps(40, 3, seed=5)
    recorded = graphs(Toy("cuda"), CudaRecorder(torch.device("cuda")), lanes=3)
    run = graphs(Toy("cuda"), None, lanes=3)
    assert all(torch.equal(*pair) for pair in zip(run_all(recorded, taken), run_all(run, taken), strict=True))
    assert recorded.records
    assert len(recorded) > 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_forward_that_waits_for_the_device_is_run_instead(
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy = Toy("cuda")

    def waits(batch: DecodeBatch) -> torch.Tensor:
        assert int(batch.tokens.sum()) >= 0
        return toy(batch)

    made = DecodeGraphs(waits, 1, 4, LONGEST, torch.device("cuda"), CudaRecorder(torch.device("cuda")))
    with caplog.at_level(logging.ERROR):
        assert float(made.run([[DecodeRow(7, 0, [1])]])[0][0, 0]) == 7
    assert "without CUDA graphs" in caplog.text

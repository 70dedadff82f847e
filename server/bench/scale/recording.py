"""Steps of a real engine under simulated users: what each had to do, and how long it took.

The model of a replica plans beside the engine and says what a step has to do; that both compute the same tokens is checked in
every step.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from server.bench.scale.tokens import tokens_of
from server.bench.steady import synchronise
from server.engine import Engine, SamplingParams, SequenceRequest
from server.engine.cache.kv_cache import BLOCK, KVCache, RowStore
from server.engine.member import Member
from server.simulation.cost import StepSample
from server.simulation.limits import Limits
from server.simulation.load import Load
from server.simulation.replica import Answer, Replica
from server.simulation.request import Request
from server.simulation.slabs import Slabs
from server.simulation.traffic import Traffic

WEIGHT = 0.5
"""Of every reward that is weighed in; it changes tokens, not times."""


class OutOfStepError(RuntimeError):
    """The engine did something else than the model of it planned: what was measured belongs to nothing."""


@dataclass(slots=True)
class Recording:
    """Steps by the clock, and for each the CPU seconds of the thread that took it: with one torch thread on an idle machine there
    is no difference. ``lost``: seconds of steps on a CPU in which something else had the core for more than half of the time: of
    these only the CPU seconds are among the samples."""

    samples: list[StepSample] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    lost: float = 0.0

    @property
    def off_cpu(self) -> float:
        """Share of the time in which the thread had no core."""
        whole = sum(sample.seconds for sample in self.samples) + self.lost
        return max(0.0, 1 - sum(self.cpu) / whole) if whole else 0.0

    def add(self, load: Load, seconds: float, cpu: float, *, on_cpu: bool) -> None:
        """One step."""
        if on_cpu and cpu < seconds / 2:
            self.lost += seconds - cpu
            seconds = cpu
        self.samples.append(StepSample(load, seconds))
        self.cpu.append(cpu)

    def extend(self, other: "Recording") -> None:
        """More of them."""
        self.samples.extend(other.samples)
        self.cpu.extend(other.cpu)
        self.lost += other.lost


@dataclass(frozen=True, slots=True)
class Phase:
    """``steps`` with ``together`` answers under way: when one has ended the next begins."""

    together: int
    steps: int


def record(
    engine: Engine,
    limits: Limits,
    traffic: Traffic,
    phases: Sequence[Phase],
    tick: Callable[[], object] = lambda: None,
) -> Recording:
    """The steps of all phases, the first few of each left out.

    Args:
        engine: with nothing under way, made with these ``limits``; without speculation.
        traffic: its requests are asked for one after the other, as often as they are needed, each time by other users.

    Raises:
        OutOfStepError: the model planned other tokens than the engine computed.
    """
    asked = _endless(traffic)
    recording = Recording()
    for phase in phases:
        _Lockstep(engine, limits).run(asked, phase, recording)
        tick()
    return recording


WARM = 3
"""Steps of a phase that are not counted."""


class _Lockstep:
    """An engine and the model of it."""

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._names = list(engine.members)
        self._on_cpu = all(member.cache.shape.device.type == "cpu" for member in engine.members.values())
        self._vocab = min(member.vocab_size for member in engine.members.values())
        self._forget_kept()
        stores = [store_of(member) for member in engine.members.values()]
        made = {id(store): _slabs(store) for store in stores if store is not None}
        self._stores = [(store, made[id(store)]) for store in stores if store is not None]
        self._replica = Replica(limits, [None if store is None else made[id(store)] for store in stores])

    def run(self, asked: Iterator[Request], phase: Phase, recording: Recording) -> None:
        for number in range(WARM + phase.steps):
            while len(self._replica) < phase.together:
                self._add(next(asked))
            load, seconds, cpu = self._step()
            if number >= WARM:
                recording.add(load, seconds, cpu, on_cpu=self._on_cpu)
        for answer in (*self._replica.running, *self._replica.waiting):
            self._engine.abort(str(answer.request.number))

    def _step(self) -> tuple[Load, float, float]:
        """What it had to do, its seconds and those of the CPU."""
        plan = self._replica.plan()
        assert plan is not None  # somebody is always under way
        before = self._engine.stats().tokens
        synchronise(self._engine)
        started, cpu = time.perf_counter(), time.thread_time()
        outputs = self._engine.step()
        synchronise(self._engine)
        seconds, cpu = time.perf_counter() - started, time.thread_time() - cpu
        after = self._engine.stats().tokens
        computed = [after[name] - before[name] for name in self._names]
        planned = [own.tokens for own in plan.load]
        drawn = sorted(output.id for output in outputs)
        expected = sorted(str(one.request.number) for one in plan.drawing)
        if computed != planned or drawn != expected:
            raise OutOfStepError(
                f"the engine computed {computed} tokens of {self._names}, the model planned {planned}; "
                f"the engine drew for {drawn}, the model for {expected}"
            )
        self._replica.take(plan)
        for own, memory in zip(plan.load, self._replica.memories, strict=True):
            own.moved += memory.take_moved()  # when answers ended and prompts were kept
        for store, slabs in self._stores:
            if store.allocated_blocks != slabs.allocated_blocks:
                raise OutOfStepError(
                    f"slabs of {store.allocated_blocks} blocks, the model has {slabs.allocated_blocks}"
                )
        return plan.load, seconds, cpu

    def _add(self, request: Request) -> None:
        prompt = tokens_of(request.prompt, self._vocab)
        mix = {
            name: (1.0 if number == 0 else WEIGHT) if number in request.members else 0.0
            for number, name in enumerate(self._names)
        }
        # No stop tokens: an answer is as long as it is asked to be.
        sampling = SamplingParams(request.output, temperature=1.0, seed=request.number)
        prompts = dict.fromkeys(self._names, prompt)
        self._engine.add(SequenceRequest(str(request.number), prompts, mix, sampling))
        self._replica.add(Answer(request))

    def _forget_kept(self) -> None:
        """The model begins with nothing kept."""
        for member in self._engine.members.values():
            while member.cache.evict():
                pass


def store_of(member: Member) -> RowStore | None:
    """Where a member's rows lie; None for pages."""
    return member.cache.store if isinstance(member.cache, KVCache) else None


def _slabs(store: RowStore) -> Slabs:
    """As they are, with nothing in them."""
    return Slabs(store.num_blocks, {slab.capacity // BLOCK: slab.allocated for slab in store.slabs})


def _endless(traffic: Traffic) -> Iterator[Request]:
    """The traffic's requests, again and again, with new numbers and by new sessions."""
    turns, sessions = len(traffic), traffic.sessions
    lap = 0
    while True:
        for request in traffic.requests():
            prompt = request.prompt
            again = replace(prompt, session=prompt.session + lap * sessions)
            yield Request(request.number + lap * turns, again, request.output, request.members)
        lap += 1

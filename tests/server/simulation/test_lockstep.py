"""The model of a replica plans what the engine's scheduler plans, step by step."""

import random

import pytest
import torch

from server.engine import EngineConfig, SamplingParams, SequenceRequest
from server.engine.cache.kv_cache import KVCache, KVShape, RowStore
from server.engine.scheduler import Scheduler, Step
from server.engine.sequence import Sequence
from server.simulation.limits import Limits
from server.simulation.replica import Answer, Replica
from server.simulation.request import Prompt, Request
from server.simulation.slabs import slabs_of

MEMBERS = ("base", "helpful", "harmless")
SHAPE = KVShape(1, 1, 2, torch.float32, torch.device("cpu"))
SYSTEM = 40


def tokens(prompt: Prompt) -> list[int]:
    """The prompt as numbers: those of its system, then its session's own."""
    system = random.Random(f"system {prompt.system}")
    session = random.Random(f"session {prompt.session}")
    head = [system.randrange(1000) for _ in range(prompt.system_tokens)]
    return head + [session.randrange(1000) for _ in range(prompt.tokens - prompt.system_tokens)]


def requests(count: int, seed: int) -> list[tuple[int, Request]]:
    """Random requests, each with the step before which it comes; sessions come again with longer prompts."""
    rng = random.Random(seed)
    length = {session: SYSTEM + rng.randint(1, 60) for session in range(count // 2)}
    made, step = [], 0
    for number in range(count):
        step += rng.choice((0, 0, 1, 3, 9))
        session = rng.choice(list(length))
        members = tuple(sorted({0, *rng.sample((1, 2), rng.randint(0, 2))}))
        prompt = Prompt(session % 3, SYSTEM, session, length[session])
        made.append((step, Request(number, prompt, rng.randint(1, 70), members)))
        length[session] += rng.randint(0, 40)
    return made


class Engine:
    """The engine's scheduler, and tokens that nobody had to compute."""

    def __init__(self, limits: Limits, stores: tuple[int, ...]) -> None:
        config = EngineConfig(
            max_sequences=limits.max_sequences,
            prefill_chunk=limits.prefill_chunk,
            max_step_tokens=limits.max_step_tokens,
            prefix_share=limits.prefix_share,
        )
        shared = {store: RowStore(SHAPE) for store in stores}
        caches = {
            name: KVCache(SHAPE, limits.kv_tokens, shared[store])
            for name, store in zip(MEMBERS, stores, strict=True)
        }
        self.scheduler = Scheduler(caches, config)

    def add(self, request: Request) -> None:
        prompt = tokens(request.prompt)
        mix = {name: float(number in request.members) for number, name in enumerate(MEMBERS)}
        prompts = dict.fromkeys(MEMBERS, prompt)
        sampling = SamplingParams(request.output)
        self.scheduler.add(Sequence.begin(SequenceRequest(str(request.number), prompts, mix, sampling)))

    def step(self) -> tuple[list[tuple[int, int]], list[int]]:
        step = self.scheduler.schedule()
        planned = [load(step, name) for name in MEMBERS]
        drawn = sorted(int(one.id) for one in step.drawing)
        for one in step.drawing:
            if not one.response:
                self.scheduler.keep_prefix(one, MEMBERS)
        for one in list(step.drawing):
            one.append(7)
            if one.finish_reason():
                self.scheduler.finish(one)
        return planned, drawn


def load(step: Step, name: str) -> tuple[int, int]:
    chunks = step.chunks.get(name, [])
    return sum(len(chunk.tokens) for chunk in chunks), sum(chunk.logits for chunk in chunks)


def both(
    limits: Limits, count: int, seed: int, stores: tuple[int, ...] = (0, 1, 2)
) -> tuple[Scheduler, Replica]:
    """Run both side by side over random requests; the same load, the same draws and the same memory in every step."""
    coming = requests(count, seed)
    slabs = slabs_of(limits, stores)
    engine, replica = Engine(limits, stores), Replica(limits, slabs)
    step = 0
    while coming or len(engine.scheduler):
        while coming and coming[0][0] <= step:
            engine.add(coming[0][1])
            replica.add(Answer(coming.pop(0)[1]))
        if not len(engine.scheduler):
            step = coming[0][0]
            continue
        planned, drawn = engine.step()
        plan = replica.plan()
        assert plan is not None
        assert [(own.tokens, own.draws) for own in plan.load] == planned, f"step {step}"
        assert sorted(one.request.number for one in plan.drawing) == drawn, f"step {step}"
        replica.take(plan)
        for name, memory, own in zip(MEMBERS, replica.memories, slabs, strict=True):
            cache = engine.scheduler._caches[name]
            assert isinstance(cache, KVCache)
            assert own is not None
            assert own.allocated_blocks == cache.allocated_blocks, f"step {step}"
            assert (memory.free, memory.kept_blocks) == (cache.free_blocks, cache.offered_blocks), (
                f"step {step}"
            )
        step += 1
    assert len(replica) == 0
    return engine.scheduler, replica


@pytest.mark.parametrize("seed", range(3))
def test_with_room_for_all(seed: int) -> None:
    limits = Limits(64 * 200, max_sequences=8, prefill_chunk=16, max_step_tokens=64)
    scheduler, replica = both(limits, 60, seed)
    assert replica.preemptions == scheduler.preemptions == 0
    assert replica.cached_tokens == scheduler.prefix_hits > 0
    assert replica.prompt_tokens == scheduler.prefix_queries


@pytest.mark.parametrize("seed", range(3))
def test_short_of_memory(seed: int) -> None:
    limits = Limits(64 * 14, max_sequences=8, prefill_chunk=16, max_step_tokens=32, prefix_share=0.5)
    scheduler, replica = both(limits, 80, seed)
    assert replica.preemptions == scheduler.preemptions > 0
    assert replica.cached_tokens == scheduler.prefix_hits > 0


def test_members_that_share_their_slabs() -> None:
    limits = Limits(64 * 14, max_sequences=8, prefill_chunk=16, max_step_tokens=32, prefix_share=0.5)
    scheduler, replica = both(limits, 80, 7, (0, 1, 1))
    assert replica.preemptions == scheduler.preemptions > 0


def test_with_few_places_and_nothing_kept() -> None:
    limits = Limits(64 * 40, max_sequences=2, prefill_chunk=32, max_step_tokens=32, prefix_share=0.0)
    scheduler, replica = both(limits, 40, 5)
    assert replica.cached_tokens == scheduler.prefix_hits == 0


@pytest.mark.parametrize("length", [*range(1, 1500, 37), 64, 65, 128, 192, 193, 256, 384, 385])
def test_rows_are_as_long_as_the_engines(length: int) -> None:
    assert Limits(1 << 20).blocks_for(length) == KVCache(SHAPE, 64).blocks_for(length)

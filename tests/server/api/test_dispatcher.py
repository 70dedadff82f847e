"""Whatever becomes of requests, in whatever order: what was taken for them is given back, once."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from server.api.choice import Choice, Ending
from server.api.dispatcher import Dispatcher, Prepared
from server.api.generation import Generation
from server.api.places import Claim, Places
from server.config import HttpSettings
from server.engine import EngineDead, SamplingParams, SequenceRequest, TokenOutput
from server.errors import ApiError, InvalidRequest, TimedOut
from server.text import Detokenizer

ENDS = ("answered", "aborted", "cut", "timed out", "disconnected", "left unread")


class Engine:
    """Takes sequences, refuses those that it is told to, and tells of them what the test says."""

    stats: Any = None

    def __init__(self) -> None:
        self.alive = True
        self.refuse = False
        self.under_way: set[str] = set()

    def start(self) -> None:
        """It runs."""

    def stop(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        self.alive = False
        return True

    def add(self, *requests: SequenceRequest) -> "Future[None]":
        future: Future[None] = Future()
        if not self.alive:
            future.set_exception(EngineDead("dead"))
        elif self.refuse:
            future.set_exception(ValueError("refused"))
        else:
            self.under_way.update(one.id for one in requests)
            future.set_result(None)
        return future

    def abort(self, sequence_id: str) -> "Future[None]":
        self.under_way.discard(sequence_id)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def has_begun(self, prefix: str) -> "Future[bool]":  # noqa: ARG002
        future: Future[bool] = Future()
        future.set_result(False)
        return future


class World:
    """A dispatcher, its engine, and requests that end in every way; lives on an event loop."""

    def __init__(self, rng: random.Random, **http: Any) -> None:
        self.rng = rng
        self.ended: Counter[str] = Counter()
        self.left = 0
        self.places = Places(24, tokens=2000, share=lambda: 0.75)
        self.engine = Engine()
        settings = HttpSettings(**http)
        self.dispatcher = Dispatcher(self.places, settings, self._count, lambda _: None, self._enter)
        self.dispatcher.attach(self.engine)  # type: ignore[arg-type]
        self.inside = 0

    def _count(self, generation: Generation) -> None:
        self.ended[generation.ticket.id] += 1

    def _enter(self) -> Callable[[], None]:
        self.inside += 1

        def leave() -> None:
            self.inside -= 1

        return leave

    def prepare(self, id: str, owner: str, count: int) -> Callable[[], Awaitable[Prepared]]:
        rng = self.rng

        async def prepared() -> Prepared:
            for _ in range(rng.randint(0, 3)):
                await asyncio.sleep(0)
            if rng.random() < 0.15:
                raise InvalidRequest("the tokenizer does not like it")
            if rng.random() < 0.05:
                await asyncio.sleep(10)  # until its time is over
            arrived = asyncio.get_running_loop().time()
            ticket: Any = SimpleNamespace(
                id=id, owner=owner, kind="x", request_id=id, streamed=True, arrived=arrived
            )
            choices = [
                Choice(f"{id}/{n}", n, Detokenizer(lambda ids: "a" * len(ids), frozenset()), Ending())
                for n in range(count)
            ]
            sampling = SamplingParams(rng.randint(1, 60))
            work = [
                SequenceRequest(one.sequence_id, {"base": [1] * rng.randint(1, 60)}, {"base": 1.0}, sampling)
                for one in choices
            ]
            return Generation(ticket, choices), work

        return prepared

    async def request(self, id: str) -> None:
        """One from its claim to its end."""
        rng, owner = self.rng, self.rng.choice(("a", "b", "c", ""))
        count = rng.randint(1, 4)
        claim = Claim(owner, count, asyncio.get_running_loop().time(), rng.choice((None, 5)))
        try:
            generation = await self.dispatcher.begin(claim, self.prepare(id, owner, count))
        except ApiError:
            return
        for _ in range(rng.randint(0, 4)):
            await asyncio.sleep(0)
            self.tell(generation, rng.choice((None, "length")))
        way = rng.choice(ENDS)
        if way == "answered":
            for choice in generation.choices:
                self.dispatcher.on_outputs([TokenOutput(choice.sequence_id, choice.tokens, 5, "length")])
        elif way == "aborted":
            self.dispatcher.cancel(generation)
        elif way == "cut":
            self.dispatcher.cut(generation, "it does not read")
        elif way == "timed out":
            self.dispatcher._fail(generation, TimedOut("too long"))
        elif way == "left unread":
            return
        await asyncio.sleep(0)
        self.dispatcher.abandon(generation)
        self.dispatcher.abandon(generation)  # who says so twice takes nothing back twice

    def tell(self, generation: Generation, reason: str | None) -> None:
        choice = self.rng.choice(generation.choices)
        if choice.sequence_id in self.engine.under_way:
            self.dispatcher.on_outputs([TokenOutput(choice.sequence_id, choice.tokens, 5, reason)])
            if reason is not None:
                self.engine.under_way.discard(choice.sequence_id)


@pytest.mark.parametrize("death", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_held_when_all_requests_are_over(seed: int, death: bool) -> None:
    faults: list[object] = []

    async def live() -> World:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        rng = random.Random(f"{seed}/{death}")
        world = World(rng, queue_seconds=0.2, total_seconds=0.4)
        tasks = []
        for number in range(150):
            world.engine.refuse = rng.random() < 0.1
            tasks.append(asyncio.create_task(world.request(f"r{number}")))
            if rng.random() < 0.15:
                rng.choice(tasks).cancel()  # the server ends, or a client is gone
            if rng.random() < 0.6:
                await asyncio.sleep(0)
            assert world.places.taken <= 24
            assert world.places.taken_tokens <= 2000
            if death and number == 120:
                world.engine.alive = False
                world.dispatcher.on_death(RuntimeError("boom"))
        told = await asyncio.gather(*tasks, return_exceptions=True)
        faults.extend(one for one in told if isinstance(one, Exception))
        await asyncio.wait_for(world.dispatcher.idle(), 5)
        return world

    world = asyncio.run(live())
    assert not faults
    assert (world.places.taken, world.places.taken_tokens, world.inside) == (0, 0, 0)
    assert not world.places._places
    assert not world.places._owned_tokens
    assert not world.dispatcher._seats
    assert not world.dispatcher._deadlines._timers
    assert set(world.ended.values()) == {1}


def test_a_stream_that_nobody_reads_holds_no_more_than_its_bound() -> None:
    async def live() -> tuple[int, Generation]:
        world = World(random.Random(1), max_unread_bytes=65536)
        world.rng.random = lambda: 1.0  # type: ignore[method-assign]
        claim = Claim("a", 1, asyncio.get_running_loop().time())
        generation = await world.dispatcher.begin(claim, world.prepare("r", "a", 1))
        (choice,) = generation.choices
        most = 0
        for index in range(100_000):
            world.dispatcher._deliver([TokenOutput(choice.sequence_id, index, 5)])
            most = max(most, generation.unread)
            if not world.engine.under_way:
                break
        return most, generation

    most, generation = asyncio.run(live())
    assert 65536 < most < 65536 + 1000
    assert generation.error is not None
    assert generation.error.code == "slow_reader"
    assert (generation.unread, len(generation._pieces)) == (0, 0)
    assert generation.tokens < 1000

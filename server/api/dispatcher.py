"""Between the event loop and the engine's thread: admits requests, hands their sequences over, brings their
tokens back. A request has one sequence per choice.

Everything here runs on the event loop; a step's outputs cross over in one ``call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from server.api.choice import Choice
from server.api.deadlines import Deadlines
from server.api.engine_row import changeable
from server.api.generation import Change, Generation
from server.api.places import Claim, Places
from server.api.quota import Quota
from server.api.search import SearchRun, spoken
from server.config import HttpSettings
from server.decoding import Guidance
from server.decoding.search import Answer
from server.errors import ApiError, InvalidRequest, NotFound, SlowReader, Unavailable
from server.runtime import EngineLike

if TYPE_CHECKING:
    from concurrent.futures import Future

    from server.engine import EngineStats, SequenceRequest, TokenOutput

T = TypeVar("T")

Prepared = tuple[Generation, Sequence["SequenceRequest | SearchRun"]]
"""A request and what is to be done for it: a sequence or a search per choice."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A choice under way, and what it takes of the ``Places``."""

    generation: Generation
    choice: Choice
    places: int
    tokens: int


class Dispatcher:
    """The requests under way, as many as there are ``places`` for; ``ended`` is called once for each.

    ``http`` says how long they may wait and take, and how much may be unread of a stream. ``enter`` is called for each that is
    let in; what it returns is called once it is over, whatever became of it. ``quota``: what keys have on other servers.
    """

    def __init__(
        self,
        places: Places,
        http: HttpSettings,
        ended: Callable[[Generation], None],
        died: Callable[[BaseException], None],
        enter: Callable[[], Callable[[], None]] = lambda: lambda: None,
        quota: Quota | None = None,
    ) -> None:
        self._places = places
        self._quota = quota
        self._max_unread = http.max_unread_bytes
        self._deadlines = Deadlines(http.queue_seconds, http.total_seconds, self._has_begun, self._fail)
        self.send_seconds = http.send_seconds
        self._enter_models = enter
        self._leave_models: dict[str, Callable[[], None]] = {}  # by the id of a request under way
        self._ended = ended
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, Generation] = {}
        self._seats: dict[str, Seat] = {}  # those the engine works on
        self._searches: dict[str, SearchRun] = {}  # by the choice's id; their sequences' ids begin with it
        self._idle = asyncio.Event()
        self._idle.set()
        self._engine: EngineLike | None = None

    def attach(self, engine: EngineLike) -> None:
        """Starts the engine that sequences go to; its callbacks are ``on_outputs`` and ``on_death``."""
        self._engine = engine
        engine.start()

    def detach(self) -> None:
        """Ends the engine's thread, if there is one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop(timeout=5.0)

    def lose(self, error: Exception) -> None:
        """The engine cannot go on, whatever its thread does or waits for: every request under way ends with an error."""
        self._engine = None
        self._bury(error)

    @property
    def engine(self) -> EngineLike:
        """The engine; raises Unavailable before there is one and after its death."""
        if self._engine is None or not self._engine.alive:
            raise Unavailable("The server cannot take requests now.", retry_after=5)
        return self._engine

    @property
    def admitted(self) -> int:
        """Choices let in: being tokenized, queued or answered."""
        return self._places.taken

    @property
    def capacity(self) -> int:
        """Choices that may be let in together."""
        return self._places.capacity

    @property
    def stats(self) -> EngineStats | None:
        """What the engine is doing; None while there is none."""
        return None if self._engine is None else self._engine.stats

    async def begin(self, claim: Claim, prepare: Callable[[], Awaitable[Prepared]]) -> Generation:
        """Takes a place for each choice, then prepares the request, then gives its sequences to the engine.

        Raises:
            QueueFull: there are not so many places left, and nothing was prepared; or no room for its tokens.
            ConcurrencyLimit: its owner would have more than it may, here or everywhere; nothing was prepared.
            QueueTimeout, TimedOut: it waited too long to be prepared.
            InvalidRequest: the engine cannot take these sequences.
            Unavailable: there is no living engine.
        """
        engine = self.engine
        self._places.take(claim)
        self._idle.clear()
        leave_models = self._enter_models()
        entered: Generation | None = None
        try:
            async with self._deadlines.preparing(claim.arrived):
                if self._quota is not None and claim.most is not None:
                    await self._quota.grant(claim, self._places.held(claim.owner))
                generation, work = await prepare()
            self._enter(generation, claim, work)
            self._leave_models[generation.ticket.id] = leave_models
            entered = generation
            sequences = [one for one in work if not isinstance(one, SearchRun)]
            if sequences:
                await _done(engine.add(*sequences))
            for search in [one for one in work if isinstance(one, SearchRun)]:
                if generation.ended:
                    break
                await search.begin(engine, partial(self._noted, generation), partial(self._found, generation))
                if generation.ticket.id not in self._running:
                    search.stop()  # it was ended before it had begun
        except BaseException as error:
            if entered is None:
                self._give_back(claim.owner, claim.places, 0)
                leave_models()
            elif self._running.pop(entered.ticket.id, None):
                self._retire(entered)
            if isinstance(error, ValueError):
                raise InvalidRequest(f"The engine refuses this request: {error}.") from error
            if isinstance(error, (ApiError, asyncio.CancelledError)):
                raise
            raise Unavailable("The server cannot take requests now.", retry_after=5) from error
        return generation

    def find(self, id: str, owner: str, kind: str) -> Generation:
        """A request under way; somebody else's, one of another kind and one that is over are as unknown as one
        that never was.
        """
        generation = self._running.get(id)
        if generation is None or (generation.ticket.owner, generation.ticket.kind) != (owner, kind):
            raise NotFound("No request with this id is running.", param="id")
        return generation

    async def change(self, generation: Generation, guidance: Guidance) -> Change:
        """Puts every choice that is not over under other guidance.

        Raises:
            NotFound: the request ended before.
            InvalidRequest: the engine cannot go on under this guidance.
        """
        choices = {choice.sequence_id: choice.index for choice in generation.choices}
        running = [id for id in choices if id in self._seats]
        row = guidance.row
        if row is None:
            raise InvalidRequest("What guides a search is fixed once it has begun.", param="preferences")
        try:
            changed = await _done(self.engine.change(running, row.mix, **changeable(row)))
        except ValueError as error:
            raise InvalidRequest(f"The engine refuses this change: {error}.") from error
        except RuntimeError as error:
            raise Unavailable("The server cannot take requests now.", retry_after=5) from error
        if not changed:
            raise NotFound("No request with this id is running.", param="id")
        change = Change(guidance, {choices[id]: at_token for id, at_token in changed.items()})
        generation.changes.append(change)
        return change

    def cancel(self, generation: Generation) -> None:
        """Ends a request now, with what it has."""
        generation.cancel()
        self._drop(generation)

    def abandon(self, generation: Generation) -> None:
        """Its reader is gone (or has read it all): no work is done for it any more."""
        if generation.ticket.id in self._running:
            generation.cancelled = True
            self._drop(generation)

    def cut(self, generation: Generation, reason: str) -> None:
        """Its reader does not read: the work ends, with an error for log and metrics, and the reader is left at once."""
        if generation.ended:
            logging.getLogger("genarm").warning("request %s: %s", generation.ticket.request_id, reason)
        generation.cut(SlowReader(reason))
        self._drop(generation)

    def fail_all(self, error: Callable[[], ApiError]) -> None:
        """Every request under way ends with an error of its own."""
        for generation in list(self._running.values()):
            self._fail(generation, error())

    async def idle(self) -> None:
        """Returns when no choice is let in any more."""
        await self._idle.wait()

    def on_outputs(self, outputs: list[TokenOutput]) -> None:
        """One step's tokens; the engine's thread calls this."""
        self._call(self._deliver, outputs)

    def on_death(self, error: BaseException) -> None:
        """The engine is dead; its thread calls this."""
        self._call(self._bury, error)

    def _call(self, function: Callable[[T], None], argument: T) -> None:
        # An engine that outlives the server (a step longer than its stop waits) has nobody left to tell.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, argument)

    def _deliver(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            search = self._searches.get(output.id.rpartition("/")[0])
            if search is not None:
                self._seats[search.choice.sequence_id].generation.begun = True
                search.push(output)
            if output.id not in self._seats:
                continue
            seat = self._seats[output.id]
            generation, choice = seat.generation, seat.choice
            generation.begun = True
            if output.finish_reason in ("error", "abort"):
                logging.getLogger("genarm").error("sequence %s failed: %s", output.id, output.error)
                generation.fail(self._fault())
            elif self._is_overrun(generation):
                self.cut(generation, f"more than {self._max_unread} bytes of the stream are unread")
                continue
            else:
                generation.push(choice, output)
            if output.finish_reason is not None or choice.finish_reason is not None:
                self._close(choice, finished=output.finish_reason is not None)
            if generation.ended:
                self._drop(generation)

    def _is_overrun(self, generation: Generation) -> bool:
        streamed = generation.ticket.streamed
        return streamed and generation.stalled and generation.unread > self._max_unread

    async def _has_begun(self, generation: Generation) -> bool:
        """Whether the engine has begun with any choice; of a dead one that is no matter, its requests end by themselves."""
        if generation.begun or self._engine is None:
            return True
        try:
            return await _done(self._engine.has_begun(f"{generation.ticket.id}/"))
        except RuntimeError:
            return True

    def _fail(self, generation: Generation, error: ApiError) -> None:
        """Ends a request under way with an error that its client is told."""
        generation.fail(error)
        self._drop(generation)

    def _noted(self, generation: Generation, search: SearchRun) -> None:
        generation.note(search.choice, search.execution.note)

    def _found(self, generation: Generation, search: SearchRun, found: Answer | Exception) -> None:
        """A search is over: its answer is said as if it had been drawn just now."""
        if isinstance(found, Exception):
            logging.getLogger("genarm").error("search %s failed: %s", search.choice.sequence_id, found)
            generation.fail(self._fault())
        else:
            for output in spoken(found, search.choice.sequence_id):
                generation.push(search.choice, output)
            self._close(search.choice, finished=True)
        if generation.ended:
            self._drop(generation)

    def _bury(self, error: BaseException) -> None:
        self.fail_all(self._fault)
        self._died(error)

    def _fault(self) -> ApiError:
        """What a client is told when the engine ends its answer: the engine is dead, or could not do this
        one.
        """
        if self._engine is None or not self._engine.alive:
            return Unavailable("The engine failed; the request is lost.", code="engine_dead", retry_after=5)
        return ApiError("The model failed on this request.")

    def _drop(self, generation: Generation) -> None:
        if self._running.pop(generation.ticket.id, None) is None:
            return
        self._retire(generation)
        self._ended(generation)

    def _enter(
        self, generation: Generation, claim: Claim, work: Sequence[SequenceRequest | SearchRun]
    ) -> None:
        """A request is under way, from here on with its tokens. Raises QueueFull when there is no room for them."""
        seats = [_seat(generation, choice, one) for choice, one in zip(generation.choices, work, strict=True)]
        assert sum(seat.places for seat in seats) == claim.places, "a place per sequence"
        self._places.take_tokens(claim.owner, sum(seat.tokens for seat in seats))
        self._running[generation.ticket.id] = generation
        self._seats.update((seat.choice.sequence_id, seat) for seat in seats)
        for one in work:
            if isinstance(one, SearchRun):
                self._searches[one.choice.sequence_id] = one
                generation.searches[one.choice.index] = one.execution
        self._deadlines.watch(generation)

    def _retire(self, generation: Generation) -> None:
        self._deadlines.forget(generation)
        for choice in generation.choices:
            self._close(choice, finished=False)
        # Behind the aborts, so that in the engine's queue nothing of it comes after what is done when it has left.
        self._leave_models.pop(generation.ticket.id)()

    def _close(self, choice: Choice, *, finished: bool) -> None:
        """The engine is to do no more for a choice; ``finished`` says that it does not anyway."""
        seat = self._seats.pop(choice.sequence_id, None)
        if seat is None:
            return
        search = self._searches.pop(choice.sequence_id, None)
        if search is not None:
            search.stop()
        elif not finished and self._engine is not None and self._engine.alive:
            self._engine.abort(choice.sequence_id)
        self._give_back(seat.generation.ticket.owner, seat.places, seat.tokens)

    def _give_back(self, owner: str, places: int, tokens: int) -> None:
        self._places.leave(owner, places, tokens)
        if self._quota is not None:
            self._quota.left(owner, self._places.held(owner))
        if not self._places.taken:
            self._idle.set()


def _seat(generation: Generation, choice: Choice, work: SequenceRequest | SearchRun) -> Seat:
    """What a choice takes: its prompt as the base reads it and all that it may write, for each of its sequences."""
    if isinstance(work, SearchRun):
        return Seat(generation, choice, work.width, work.tokens)
    prompt = next(iter(work.prompts.values()))
    return Seat(generation, choice, 1, len(prompt) + work.sampling.max_tokens)


async def _done(future: Future[T]) -> T:
    """A command's result. Shielded: a caller that is cancelled must not cancel what the engine is about to
    answer.
    """
    return await asyncio.shield(asyncio.wrap_future(future))

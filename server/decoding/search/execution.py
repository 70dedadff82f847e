"""One search under way: its rounds become requests for the engine, the engine's outputs become their results.

Both drivers, the one over an engine and the one over an engine's thread, only carry out the :class:`Work` they are handed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from server.decoding.search.action import (
    Answer,
    Cost,
    Grow,
    Render,
    Result,
    Round,
    Score,
    Scored,
    Search,
    Text,
)
from server.decoding.search.task import Task

if TYPE_CHECKING:
    from server.engine import SequenceRequest, TokenOutput


class SearchFailed(RuntimeError):
    """The engine could not do what a search needs."""


@dataclass(slots=True)
class Work:
    """What a driver is to do now: sequences to add, abort and release, chats to render, in this order."""

    add: list[SequenceRequest] = field(default_factory=list)
    abort: list[str] = field(default_factory=list)
    release: list[str] = field(default_factory=list)
    render: list[Render] = field(default_factory=list)


@dataclass(slots=True)
class _Pending:
    """An action whose result is awaited; ``place`` in its round."""

    place: int
    action: Grow | Score
    drawn: list[TokenOutput] = field(default_factory=list)
    stopped: Callable[[int], bool] | None = None


class Execution:
    """The state of one search; used by one driver, from one thread.

    ``begin`` comes first; then every output of a sequence whose id begins with ``id`` and a slash goes to ``take``, and the
    results of ``Work.render`` to ``rendered``, until ``answer`` is there; ``end`` says what is to be undone, at any time.
    """

    def __init__(self, id: str, search: Search, task: Task) -> None:
        self.id = id
        self.answer: Answer | None = None
        self.note = ""
        self._search = search
        self._task = task
        self._pending: dict[str, _Pending] = {}
        self._results: list[Result] = []
        self._missing = 0
        self._round = Round(())
        self._held: set[str] = set()
        self._made: set[str] = set()
        self._cost = Cost()

    @property
    def cost(self) -> Cost:
        """What it has taken so far."""
        return self._cost

    def begin(self) -> Work:
        """The first round."""
        return self._advance(first=True)

    def take(self, output: TokenOutput) -> Work:
        """Takes one output of one of its sequences.

        Raises:
            SearchFailed: the engine ended a sequence with an error.
        """
        pending = self._pending.get(output.id)
        if pending is None:
            return Work()
        if output.finish_reason in ("error", "abort"):
            raise SearchFailed(output.error or "a sequence was aborted")
        if isinstance(pending.action, Score):
            return self._finish(output.id, self._scored(output, pending.action))
        return self._drew(output, pending, pending.action)

    def rendered(self, results: Sequence[Result]) -> Work:
        """Takes what ``Work.render`` has become."""
        self._results = list(results)
        self._missing = 0
        return self._advance()

    def end(self) -> Work:
        """What is to be undone: everything that runs or is held. Nothing comes of the search any more."""
        self._search.close()
        work = Work(abort=list(self._pending), release=sorted(self._held | self._made | set(self._pending)))
        self._pending.clear()
        self._held, self._made = set(), set()
        return work

    def _drew(self, output: TokenOutput, pending: _Pending, action: Grow) -> Work:
        pending.drawn.append(output)
        self._cost = replace(self._cost, generated_tokens=self._cost.generated_tokens + 1)
        stopped = pending.stopped is not None and pending.stopped(output.token)
        if output.finish_reason is None and not stopped:
            return Work()
        drawn = (*action.text.drawn, *pending.drawn)
        if stopped and output.finish_reason is None:
            work = self._finish(output.id, Text(drawn, "stop"))
            work.abort.append(output.id)
            return work
        over = "length" if len(drawn) >= self._task.max_tokens else None
        reason = "stop" if stopped or output.finish_reason == "stop" else over
        return self._finish(output.id, Text(drawn, reason, output.id))

    def _scored(self, output: TokenOutput, action: Score) -> Scored:
        said = output.scores
        assert said is not None, "a sequence that is scored ends with its scores"
        total = sum((weight * said[name] for name, weight in action.weights.items() if weight), 0.0)
        return Scored(total, output.id)

    def _finish(self, sequence_id: str, result: Result) -> Work:
        pending = self._pending.pop(sequence_id)
        self._results[pending.place] = result
        self._missing -= 1
        # Also one that is aborted: where the engine's thread was faster, it has ended by itself and is held.
        self._made.add(sequence_id)
        return self._advance() if not self._missing else Work()

    def _advance(self, *, first: bool = False) -> Work:
        """The next round that needs anybody else, or the answer."""
        work = Work(release=[] if first else self._let_go())
        while True:
            try:
                self._round = next(self._search) if first else self._search.send(self._results)
            except StopIteration as stop:
                self.answer = replace(stop.value, cost=self._cost)
                self._held |= self._made
                work.release += sorted(self._held)
                self._held, self._made = set(), set()
                return work
            first = False
            self.note = self._round.note or self.note
            self._results = [None] * len(self._round.actions)
            self._missing = len(self._round.actions)
            if self._missing:
                self._open(work)
                return work

    def _let_go(self) -> list[str]:
        """Sequences that the round which is done holds on to no longer."""
        kept = set(self._round.kept)
        gone = sorted(self._held - kept)
        self._held = (self._held & kept) | self._made
        self._made = set()
        return gone

    def _open(self, work: Work) -> None:
        for place, action in enumerate(self._round.actions):
            if isinstance(action, Render):
                work.render.append(action)
                continue
            sequence_id = f"{self.id}/{self._cost.engine_requests}"
            scored = len(action.text) if isinstance(action, Score) else 0
            self._cost = replace(
                self._cost,
                engine_requests=self._cost.engine_requests + 1,
                scored_tokens=self._cost.scored_tokens + scored,
            )
            self._pending[sequence_id] = _Pending(place, action, stopped=self._watcher(action))
            work.add.append(self._request(sequence_id, action))

    def _watcher(self, action: Grow | Score) -> Callable[[int], bool] | None:
        """Looks for stop strings in what a text gains."""
        if isinstance(action, Score) or not action.watched or self._task.watch is None:
            return None
        stopped = self._task.watch()
        for token in action.text.tokens:
            stopped(token)
        return stopped

    def _request(self, sequence_id: str, action: Grow | Score) -> SequenceRequest:
        from server.engine import SequenceRequest

        if isinstance(action, Score):
            names = tuple(name for name, weight in action.weights.items() if weight)
            return SequenceRequest(
                id=sequence_id,
                prompts=self._read(names, action),
                mix={},
                sampling=self._task.sampling,
                salt=self._task.salt,
                owner=self._task.owner,
                begun=action.text.tokens,
                parent=action.parent,
                hold=True,
                scores=names,
            )
        members = [name for name, weight in action.mix.items() if weight]
        told = not action.plain
        return SequenceRequest(
            id=sequence_id,
            prompts=self._read(members, action),
            mix=action.mix,
            sampling=action.sampling,
            grammar=self._task.grammar if told else None,
            report=self._task.report and told,
            salt=self._task.salt,
            owner=self._task.owner,
            begun=action.text.tokens,
            parent=action.parent,
            hold=True,
        )

    def _read(self, members: Sequence[str], action: Grow | Score) -> dict[str, Sequence[int]]:
        """The prompts of those that read, the base's first: positions are counted in its context."""
        names = dict.fromkeys(("base", *members))
        return {name: action.prompts[name] for name in names if name in action.prompts}

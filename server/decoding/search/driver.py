"""Searches over an engine in the same thread: many advance together in its one continuous batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from server.decoding.search.action import Answer, Message, Prompts
from server.decoding.search.execution import Execution, Work
from server.decoding.search.method import SearchMethod
from server.decoding.search.task import Task

if TYPE_CHECKING:
    from server.engine import SequenceRequest, TokenOutput

RenderChat = Callable[[Sequence[Message]], Prompts | None]
"""Every member's prompt of a chat; None where a template refuses it."""


class Steps(Protocol):
    """What a driver needs of ``server.engine.Engine``."""

    def add(self, *requests: SequenceRequest) -> None:
        """Queues sequences."""

    def abort(self, sequence_id: str) -> list[TokenOutput]:
        """Ends one now."""

    def release(self, ids: Sequence[str]) -> None:
        """Lets contexts go that were held."""

    def step(self) -> list[TokenOutput]:
        """Runs one step."""


@dataclass(frozen=True)
class SearchRequest:
    """One search to make. ``id`` is unique among those of a call and has no slash; ``render`` is for methods that rewrite."""

    id: str
    method: SearchMethod
    task: Task
    render: RenderChat | None = None


def run_searches(
    engine: Steps, searches: Sequence[SearchRequest], done: Callable[[Answer], None] = lambda _: None
) -> list[Answer]:
    """The answers in the order of ``searches``; ``done`` hears of each as it comes. Whatever happens, nothing stays held.

    Raises:
        ValueError: the engine refuses a sequence.
        SearchFailed: the engine ended one with an error.
    """
    runs = {one.id: Execution(one.id, one.method.search(one.task), one.task) for one in searches}
    renders = {one.id: one.render for one in searches}
    going = dict(runs)

    def carry_out(run: Execution, work: Work) -> None:
        engine.add(*work.add)
        for sequence_id in work.abort:
            engine.abort(sequence_id)
        if work.release:
            engine.release(work.release)
        if work.render:
            draw_up = renders[run.id]
            prompts = [None if draw_up is None else draw_up(one.messages) for one in work.render]
            carry_out(run, run.rendered(prompts))
        if run.answer is not None and going.pop(run.id, None) is not None:
            done(run.answer)

    try:
        for run in runs.values():
            carry_out(run, run.begin())
        while going:
            for output in engine.step():
                run = runs[output.id.partition("/")[0]]
                carry_out(run, run.take(output))
    finally:
        for run in going.values():
            work = run.end()
            for sequence_id in work.abort:
                engine.abort(sequence_id)
            engine.release(work.release)
    answers = [run.answer for run in runs.values()]
    return [answer for answer in answers if answer is not None]

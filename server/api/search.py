"""A search under way behind one choice: its sequences go to the engine's thread, what it finds becomes the choice's answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from server.api.choice import Choice
from server.decoding.search import Answer, Execution, Message, Prompts, SearchMethod, Task, Work
from server.errors import InvalidRequest
from server.runtime import EngineLike
from server.text import TokenizerThread

if TYPE_CHECKING:
    from concurrent.futures import Future

    from server.engine import TokenOutput

Render = Callable[[Sequence[Message]], Prompts]
"""Every member's prompt of a chat, as the request's own is made; called in the tokenizer thread. Raises InvalidRequest."""

Ended = Callable[["SearchRun", Answer | Exception], None]
"""Hears what a search has come to, once, unless it was stopped before."""


@dataclass(frozen=True)
class Rewriting:
    """How other chats than the request's become prompts: in which thread, by what, and in whose turn."""

    tokenizers: TokenizerThread
    render: Render
    owner: str


class SearchRun:
    """One search over the engine's thread; lives on the event loop.

    ``choice`` gets its answer; ``width`` is how many sequences it has at once, at most.
    """

    def __init__(self, choice: Choice, method: SearchMethod, task: Task, rewriting: Rewriting | None) -> None:
        self.choice = choice
        self.width = method.width(task.parameters)
        self._asked = task
        self.execution = Execution(choice.sequence_id, method.search(task), task)
        self._rewriting = rewriting
        self._outputs: asyncio.Queue[TokenOutput] = asyncio.Queue()
        self._engine: EngineLike | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def tokens(self) -> int:
        """Tokens that its sequences have together, at most."""
        return self.width * (len(self._asked.prompts["base"]) + self._asked.max_tokens)

    async def begin(self, engine: EngineLike, noted: Callable[[SearchRun], None], ended: Ended) -> None:
        """Gives the first sequences to the engine, then goes on by itself; ``noted`` hears when it has got further.

        Raises:
            ValueError: the engine refuses them.
            RuntimeError: the engine has ended.
        """
        self._engine = engine
        await self._carry_out(self.execution.begin())
        self._task = asyncio.create_task(self._go_on(noted, ended))

    def push(self, output: TokenOutput) -> None:
        """Takes an output of one of its sequences."""
        self._outputs.put_nowait(output)

    def stop(self) -> None:
        """Does no more; the engine gets back all that it has for it."""
        if self._task is not None:
            self._task.cancel()
        work = self.execution.end()
        engine = self._engine
        if engine is not None and engine.alive:
            for sequence_id in work.abort:
                engine.abort(sequence_id)
            engine.release(work.release)

    async def _go_on(self, noted: Callable[[SearchRun], None], ended: Ended) -> None:
        note = ""
        try:
            while self.execution.answer is None:
                if self.execution.note != note:
                    note = self.execution.note
                    noted(self)
                await self._carry_out(self.execution.take(await self._outputs.get()))
        except Exception as error:  # whatever a search trips over ends this request alone
            ended(self, error)
        else:
            ended(self, self.execution.answer)

    async def _carry_out(self, work: Work) -> None:
        """In the order of the engine's queue; only what may be refused is waited for."""
        engine = self._engine
        assert engine is not None, "begin() comes first"
        added = engine.add(*work.add) if work.add else None
        for sequence_id in work.abort:
            engine.abort(sequence_id)
        if work.release:
            engine.release(work.release)
        if added is not None:
            # Last: a search that is stopped here has given everything else to the engine.
            await _done(added)
        if work.render:
            rewriting = self._rewriting
            assert rewriting is not None, "who renders chats was given the way to"
            chats = [partial(_rendered, rewriting.render, one.messages) for one in work.render]
            prompts = [await rewriting.tokenizers.run(chat, rewriting.owner) for chat in chats]
            await self._carry_out(self.execution.rendered(prompts))


def spoken(answer: Answer, sequence_id: str) -> list[TokenOutput]:
    """The tokens of an answer as one sequence of this id would have told them."""
    last = len(answer.text) - 1
    return [
        replace(
            output,
            id=sequence_id,
            index=index,
            finish_reason=answer.text.finish_reason if index == last else None,
        )
        for index, output in enumerate(answer.text.drawn)
    ]


def _rendered(render: Render, chat: Sequence[Message]) -> Prompts | None:
    with contextlib.suppress(InvalidRequest):
        return render(chat)
    return None


async def _done(future: Future[None]) -> None:
    """A command's result. Shielded: a search that is stopped must not cancel what the engine is about to do."""
    await asyncio.shield(asyncio.wrap_future(future))

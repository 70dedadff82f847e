"""Searches of a sweep over an engine's thread: many advance together, their sequences in one continuous batch."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from arm_models.errors import UserError
from arm_models.evaluation.answers import Answer, Cell
from server.decoding import Guidance
from server.decoding.search import Answer as Found
from server.decoding.search import (
    Chat,
    Message,
    Prompts,
    SearchFailed,
    SearchMethod,
    SearchRequest,
    Task,
    run_searches,
)
from server.errors import InvalidRequest
from server.runtime import EngineLike, Runtime

if TYPE_CHECKING:
    from server.engine import SamplingParams, SequenceRequest, TokenOutput

Outputs = queue.SimpleQueue["list[TokenOutput] | BaseException"]
_WAVES = 4


class ThreadSteps:
    """An engine's thread as ``run_searches`` wants an engine: it steps by itself, so a step is to wait for its outputs."""

    def __init__(self, engine: EngineLike, outputs: Outputs) -> None:
        self._engine = engine
        self._outputs = outputs
        self._added: list[Future[None]] = []

    def add(self, *requests: SequenceRequest) -> None:
        """Queue sequences; that they were refused is told by a later ``step``, so that nothing waits for the engine here."""
        if requests:
            self._added.append(self._engine.add(*requests))

    def abort(self, sequence_id: str) -> list[TokenOutput]:
        """End one; its last output comes with others."""
        self._engine.abort(sequence_id)
        return []

    def release(self, ids: Sequence[str]) -> None:
        """Let held contexts go."""
        self._engine.release(ids)

    def step(self) -> list[TokenOutput]:
        """What a step made. Raises ``ValueError`` for sequences that were refused, ``UserError`` where the engine has died."""
        while True:
            self._check()
            try:
                outputs = self._outputs.get(timeout=1.0)
            except queue.Empty:
                continue
            if isinstance(outputs, BaseException):
                raise UserError(f"the engine died: {outputs}")
            return outputs

    def _check(self) -> None:
        for future in [future for future in self._added if future.done()]:
            self._added.remove(future)
            future.result()


def search(
    cells: Sequence[tuple[Cell, Guidance, SamplingParams]],
    runtime: Runtime,
    steps: ThreadSteps,
    most: int,
    done: Callable[[Answer], None],
) -> int:
    """Answer ``cells`` (each with what its setting means) by searches, each told to ``done``; the tokens of all answers.

    ``most``: sequences that the engine runs side by side. Raises ``UserError`` where the engine refuses or fails one.
    """
    tokens = 0
    for wave in _waves(cells, most):
        requests = [
            _request(str(number), cell, guidance, sampling, runtime)
            for number, (cell, guidance, sampling) in enumerate(wave)
        ]
        try:
            answers = run_searches(steps, requests)
        except (ValueError, SearchFailed) as error:
            raise UserError(f"setting {wave[0][0].setting.name!r}: {error}") from None
        for (cell, _, _), found in zip(wave, answers, strict=True):
            tokens += len(found.text)
            done(_answer(cell, found, runtime))
    return tokens


def _waves(
    cells: Sequence[tuple[Cell, Guidance, SamplingParams]], most: int
) -> Iterator[Sequence[tuple[Cell, Guidance, SamplingParams]]]:
    """As many searches at a time as fill the batch a few times over: what they hold takes memory."""
    start = 0
    while start < len(cells):
        _, guidance, _ = cells[start]
        count = max(1, _WAVES * most // _method(guidance).width(guidance.parameters))
        yield cells[start : start + count]
        start += count


def _request(
    identity: str, cell: Cell, guidance: Guidance, sampling: SamplingParams, runtime: Runtime
) -> SearchRequest:
    roles = guidance.roles
    assert roles is not None, "a search has roles"

    def render(messages: Sequence[Message]) -> Prompts | None:
        try:
            return runtime.tokenizer.prompts(messages, members=roles.members)
        except InvalidRequest:
            return None

    prompts = runtime.tokenizer.prompts(cell.messages, members=roles.members)
    chat = Chat(cell.messages, runtime.tokenizer.decode)
    task = Task(prompts, sampling, guidance.parameters, roles, runtime.max_context, chat)
    return SearchRequest(identity, _method(guidance), task, render)


def _method(guidance: Guidance) -> SearchMethod:
    assert isinstance(guidance.method, SearchMethod)
    return guidance.method


def _answer(cell: Cell, found: Found, runtime: Runtime) -> Answer:
    text = runtime.tokenizer.decode(found.text.tokens)
    return Answer(
        cell.setting.name,
        cell.prompt,
        cell.sample,
        text,
        len(found.text),
        found.kl,
        found.text.finish_reason or "stop",
        found.cost.generated_tokens,
    )

"""A sweep answered by the engine of a deployment, in this process: every answer in one continuous batch."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from arm_models.errors import UserError
from arm_models.evaluation.answers import Answer, Cell, Cost
from arm_models.evaluation.settings import Setting
from server.api.engine_row import asked
from server.api.negative import negative_chat
from server.config import Deployment
from server.decoding import (
    BASE,
    NEGATIVE,
    Guidance,
    Roster,
    Row,
    initial_preferences,
    method_named,
    read_parameters,
)
from server.errors import ApiError
from server.evaluation.search_answers import Outputs, ThreadSteps, search
from server.runtime import Runtime, load_runtime
from server.text import Prompts

if TYPE_CHECKING:
    from server.engine import EngineStats, SamplingParams, SequenceRequest, TokenOutput


@dataclass
class _Draft:
    """An answer under way."""

    cell: Cell
    tokens: list[int] = field(default_factory=list)
    kl: float = 0.0
    reported: int = 0


class EngineAnswers:
    """Answers by a loaded deployment. ``report`` also asks what each token's KL to the base is."""

    def __init__(
        self,
        deployment: Deployment,
        runtime: Runtime,
        *,
        temperature: float = 1.0,
        max_tokens: int = 160,
        report: bool = True,
    ) -> None:
        self.deployment = deployment
        self.runtime = runtime
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.report = report
        self._outputs: Outputs = queue.SimpleQueue()
        self._engine = runtime.make_engine(self._outputs.put, self._outputs.put)
        self._engine.start()

    @classmethod
    @contextmanager
    def load(
        cls,
        deployment: Deployment,
        progress: Callable[[str], None] = lambda _: None,
        settings: Sequence[Setting] = (),
        *,
        temperature: float = 1.0,
        max_tokens: int = 160,
        report: bool = True,
    ) -> Iterator[EngineAnswers]:
        """The models of ``deployment``, loaded; its engine ends with the block.

        Raises ``UserError`` for the first of ``settings`` that it refuses, before anything is loaded.
        """
        for setting in settings:
            guidance_of(setting, deployment)
        runtime = load_runtime(deployment, progress)
        answers = cls(deployment, runtime, temperature=temperature, max_tokens=max_tokens, report=report)
        try:
            yield answers
        finally:
            answers.close()

    def close(self) -> None:
        """End the engine's thread."""
        self._engine.stop(60.0)

    def __call__(self, cells: Sequence[Cell], done: Callable[[Answer], None]) -> Cost:
        """See ``Answering``."""
        before, started = self._engine.stats, time.monotonic()
        settings = {cell.setting.name: cell.setting for cell in cells}
        guidance = {name: guidance_of(setting, self.deployment) for name, setting in settings.items()}
        rows = [cell for cell in cells if guidance[cell.setting.name].row is not None]
        tokens = self._collect(self._submit(rows, guidance), done)
        tokens += self._search(
            [cell for cell in cells if guidance[cell.setting.name].row is None], guidance, done
        )
        return Cost(time.monotonic() - started, len(cells), tokens, *_work(before, self._engine.stats))

    def _search(
        self, cells: Sequence[Cell], guidance: Mapping[str, Guidance], done: Callable[[Answer], None]
    ) -> int:
        """Answer by searches, a setting's side by side; the tokens of all answers."""
        together = sorted(cells, key=lambda cell: cell.setting.name)
        asked = [(cell, guidance[cell.setting.name], self._sampling(cell)) for cell in together]
        steps = ThreadSteps(self._engine, self._outputs)
        return search(asked, self.runtime, steps, self.deployment.engine.max_sequences, done)

    def _submit(self, cells: Sequence[Cell], guidance: Mapping[str, Guidance]) -> dict[str, _Draft]:
        """Queue all of ``cells``, a prompt's in one group that reads it once; what they will become, by request id."""
        weighted = {cell.setting.name: _members(guidance[cell.setting.name]) for cell in cells}
        members = frozenset[str]().union(*weighted.values())
        drafts: dict[str, _Draft] = {}
        added = []
        for prompt, group in groupby(cells, key=lambda cell: cell.prompt):
            # The first of a group reads the prompt for all: it should be one that every member has a part in.
            together = sorted(group, key=lambda cell: -len(weighted[cell.setting.name]))
            prompts = self.runtime.tokenizer.prompts(together[0].messages, members=members - {NEGATIVE})
            requests = []
            for cell in together:
                identity = str(len(drafts))
                drafts[identity] = _Draft(cell)
                requests.append(self._request(identity, cell, guidance[cell.setting.name], prompts))
            added.append((prompt, self._engine.add(*requests)))
        for prompt, taken in added:
            try:
                taken.result()
            except ValueError as error:
                raise UserError(f"prompt {prompt}: {error}") from None
        return drafts

    def _collect(self, drafts: dict[str, _Draft], done: Callable[[Answer], None]) -> int:
        """Tell every answer as it ends; the tokens of all of them."""
        tokens = 0
        while drafts:
            outputs = self._outputs.get()
            if isinstance(outputs, BaseException):
                raise UserError(f"the engine died: {outputs}")
            for output in outputs:
                draft = drafts.get(output.id)
                if draft is not None and _ended(draft, output):
                    del drafts[output.id]
                    tokens += len(draft.tokens)
                    done(self._answer(draft, output.finish_reason or "stop"))
        return tokens

    def _request(self, identity: str, cell: Cell, guidance: Guidance, prompts: Prompts) -> SequenceRequest:
        from server.engine import SequenceRequest

        row = _row(guidance)
        return SequenceRequest(
            id=identity,
            prompts={**prompts, **self._negative(cell, row)},
            mix=row.mix,
            sampling=self._sampling(cell),
            report=self.report,
            max_kl=guidance.max_kl,
            **asked(row),
        )

    def _sampling(self, cell: Cell) -> SamplingParams:
        from server.engine import SamplingParams

        eos = self.runtime.eos_ids
        return SamplingParams(self.max_tokens, self.temperature, seed=cell.seed, stop_token_ids=eos)

    def _negative(self, cell: Cell, row: Row) -> Prompts:
        """What the base's second context reads, where the setting has one."""
        if row.negative is None:
            return {}
        chat = negative_chat(cell.messages, row.negative, goes_on=False)
        return {NEGATIVE: self.runtime.tokenizer.prompts(chat, members={BASE})[BASE]}

    def _answer(self, draft: _Draft, reason: str) -> Answer:
        cell = draft.cell
        told = [token for token in draft.tokens if token not in self.runtime.eos_ids]
        text = self.runtime.tokenizer.decode(told)
        kl = draft.kl if draft.reported else None
        return Answer(cell.setting.name, cell.prompt, cell.sample, text, len(draft.tokens), kl, reason)


def guidance_of(setting: Setting, deployment: Deployment) -> Guidance:
    """What ``setting`` means to ``deployment``; raises ``UserError`` that names the setting where it is refused."""
    roster = Roster.of(deployment)
    try:
        method = method_named(setting.method, roster)
        parameters = read_parameters(method, setting.parameters)
        preferences = initial_preferences(method, parameters, roster, given=setting.preferences, preset=None)
        guidance = Guidance(method, parameters, preferences, roster)
        _ = guidance.row, guidance.roles
    except ApiError as error:
        raise UserError(f"setting {setting.name!r}: {error}") from None
    return guidance


def _ended(draft: _Draft, output: TokenOutput) -> bool:
    """Take in one token; whether it was the last. Raises ``UserError`` for an answer that ended with an error."""
    if output.error is not None:
        raise UserError(f"prompt {draft.cell.prompt}, setting {draft.cell.setting.name!r}: {output.error}")
    if output.token >= 0:
        draft.tokens.append(output.token)
    if output.report is not None:
        draft.kl += output.report.kl
        draft.reported += 1
    return output.finish_reason is not None


def _row(guidance: Guidance) -> Row:
    """The row of a method that has one: every other is asked in another way."""
    assert guidance.row is not None
    return guidance.row


def _members(guidance: Guidance) -> frozenset[str]:
    """The members that are weighted, and the base, which places the tokens of all."""
    row = _row(guidance)
    weights = {**row.mix, **(row.candidates.weights if row.candidates else {})}
    return frozenset({BASE, *(name for name, weight in weights.items() if weight != 0)})


def _work(before: EngineStats, after: EngineStats) -> tuple[dict[str, int], dict[str, int]]:
    """Forwards and tokens of each member between two looks at an engine."""
    return (
        {name: count - before.forwards.get(name, 0) for name, count in after.forwards.items()},
        {name: count - before.tokens.get(name, 0) for name, count in after.tokens.items()},
    )

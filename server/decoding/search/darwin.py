"""DARWIN (arXiv 2406.15193): beams under rewritten instructions; every m tokens the best ones overwrite the others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pydantic import Field

from server.decoding.method import Parameters
from server.decoding.search.action import (
    Answer,
    Grow,
    Prompts,
    Render,
    Result,
    Round,
    Score,
    Search,
    Text,
    grow,
    render,
    score_after_one,
)
from server.decoding.search.method import SearchParameters
from server.decoding.search.rewriting import (
    instruction_of,
    read_rewriting,
    rewriting_chat,
    with_instruction,
)
from server.decoding.search.roles import Rewarded, read_roles
from server.decoding.search.task import Roles, Task

if TYPE_CHECKING:
    from server.decoding.roster import Roster
    from server.engine import SamplingParams

REWRITING_TOKENS = 512
"""Tokens that a list of rewritten instructions may have."""


class DarwinParameters(SearchParameters):
    """``guidance`` keys of DARWIN."""

    iterations: int = Field(3, ge=1, le=16, description="times that an instruction of the archive is taken")
    mutations: int = Field(5, ge=1, le=64, description="instructions it is rewritten into")
    beams: int = Field(1, ge=1, le=64, description="responses under each of these")
    m: int = Field(40, ge=1, le=4096, description="tokens between two comparisons of the beams")
    keep: int = Field(3, ge=1, le=64, description="best beams that overwrite the others")
    archive_add: int = Field(2, ge=0, le=64, description="instructions of an iteration that join the archive")
    mutation_temperature: float = Field(0.7, ge=0, le=2, description="how rewritings are drawn")
    mutation_top_k: int = Field(40, ge=0, description="how rewritings are drawn; 0 is off")
    mutate: bool = Field(True, description="false: every beam has the request's own instruction")
    replace: bool = Field(True, description="false: beams are compared in the end only")


class Darwin(Rewarded):
    """Evolves responses. With neither rewriting nor overwriting it is best-of-N, and with one beam plain sampling."""

    name = "darwin"
    Parameters: type[Parameters] = DarwinParameters
    whole = False
    told = True

    def width(self, parameters: DarwinParameters) -> int:
        """One sequence per beam."""
        return parameters.mutations * parameters.beams

    def rewrites(self, parameters: DarwinParameters) -> bool:
        """Where instructions mutate."""
        return parameters.mutate

    def roles(self, preferences: Mapping[str, float], parameters: DarwinParameters, roster: Roster) -> Roles:
        """See ``SearchMethod``."""
        return read_roles(preferences, parameters, roster)

    def search(self, task: Task) -> Search:
        """See the module; its steps are the methods of ``_Evolution``, in order."""
        return _Evolution(task).run()


@dataclass(slots=True)
class _Beam:
    """One response that grows under an instruction. ``number`` has its seed, ``read`` last scored it, ``value`` is that score."""

    instruction: str
    prompts: Prompts
    number: int
    text: Text = field(default_factory=Text)
    grown: str | None = None  # the sequence with its own contexts, whatever text it was given since
    read: str | None = None
    value: float = 0.0
    stale: bool = True


class _Evolution:
    """The archive (instruction → reward), and the best text of all."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.parameters: DarwinParameters = task.parameters
        self.archive: dict[str, float] = {}
        self.best: Answer | None = None
        self.drawn = 0  # responses and lists so far; each has a seed of its own
        self.iteration = 0
        self.chance = random.Random(f"{task.sampling.seed}/darwin")
        self.original = (instruction_of(task.chat.messages) if task.chat else None) or ""

    def run(self) -> Search:
        """The best text of all iterations; of equal ones the first."""
        if self.parameters.mutate:
            yield from self._answer_once()
        for iteration in range(1, self.parameters.iterations + 1):
            self.iteration = iteration
            beams = yield from self._begin()
            wins = yield from self._evolve(beams)
            self._record(beams, wins)
        assert self.best is not None
        return self.best

    def _answer_once(self) -> Generator[Round, Sequence[Result], None]:
        """The original instruction's answer, the first entry of the archive."""
        beam = self._beam(self.original, self.task.prompts)
        yield from self._lengthen([beam], self.task.max_tokens)
        yield from self._judge([beam])
        self.archive[self.original] = beam.value
        self._consider([beam])

    def _begin(self) -> Generator[Round, Sequence[Result], list[_Beam]]:
        """An instruction of the archive, rewritten, and the beams under what it has become."""
        begun = [(self.original, self.task.prompts)] * self.parameters.mutations
        if self.parameters.mutate:
            begun = yield from self._rewrite(self.chance.choice(list(self.archive)))
        return [self._beam(*one) for one in begun for _ in range(self.parameters.beams)]

    def _beam(self, instruction: str, prompts: Prompts) -> _Beam:
        self.drawn += 1
        return _Beam(instruction, prompts, self.drawn - 1)

    def _rewrite(self, source: str) -> Generator[Round, Sequence[Result], list[tuple[str, Prompts]]]:
        """``mutations`` rewordings of ``source`` with their prompts; copies where the model's list cannot be used."""
        chat, count = self.task.chat, self.parameters.mutations
        assert chat is not None, "who rewrites instructions has a chat"
        (prompts, asked) = yield from render(
            [Render(with_instruction(chat.messages, source)), Render(rewriting_chat(source, count))],
            note=self._note("rewriting the instruction"),
        )
        copy = (source, self.task.prompts if prompts is None else prompts)
        written = None if asked is None else (yield from self._ask(asked))
        if written is None:
            return [copy] * count
        rendered = yield from render([Render(with_instruction(chat.messages, one)) for one in written])
        return [
            copy if read is None or self.task.room(self._own(read)) < self.task.max_tokens else (text, read)
            for text, read in zip(written, rendered, strict=True)
        ]

    def _own(self, prompts: Prompts) -> Prompts:
        """The prompts of those that draw."""
        return {name: prompts[name] for name, weight in self.task.roles.mix.items() if weight}

    def _ask(self, prompts: Prompts) -> Generator[Round, Sequence[Result], list[str] | None]:
        """What the base writes when it is asked for other words."""
        chat = self.task.chat
        assert chat is not None
        base = {"base": prompts["base"]}
        limit = min(REWRITING_TOKENS, self.task.room(base))
        if limit < 1:
            return None
        self.drawn += 1
        like = self.task.sampled(self.drawn - 1, limit)
        sampling = _plain(like, self.parameters.mutation_temperature, self.parameters.mutation_top_k)
        (text,) = yield from grow([Grow(base, Text(), {"base": 1.0}, sampling, watched=False, plain=True)])
        return read_rewriting(chat.decode(text.tokens), self.parameters.mutations)

    def _evolve(self, beams: list[_Beam]) -> Generator[Round, Sequence[Result], Counter[int]]:
        """Until every beam has ended: m tokens, scores, overwriting. How often each was among the best."""
        wins: Counter[int] = Counter()
        while any(beam.text.finish_reason is None for beam in beams):
            length = max(len(beam.text) for beam in beams if beam.text.finish_reason is None)
            more = self.parameters.m if self.parameters.replace else self.task.max_tokens
            yield from self._lengthen(beams, min(length + more, self.task.max_tokens))
            yield from self._judge(beams)
            best = sorted(range(len(beams)), key=lambda place: -beams[place].value)[: self.parameters.keep]
            wins.update(best)
            if self.parameters.replace:
                self._overwrite(beams, best)
        return wins

    def _lengthen(self, beams: Sequence[_Beam], until: int) -> Generator[Round, Sequence[Result], None]:
        """Every unfinished beam grows to ``until`` tokens."""
        going = [beam for beam in beams if beam.text.finish_reason is None]
        grown = yield from grow(
            [
                Grow(
                    beam.prompts,
                    beam.text,
                    self.task.roles.mix,
                    self.task.sampled(beam.number, until),
                    parent=beam.text.held,
                )
                for beam in going
            ],
            kept=[beam.read for beam in beams],
            note=self._note(f"{len(going[0].text)} of {self.task.max_tokens} tokens"),
        )
        for beam, text in zip(going, grown, strict=True):
            beam.text, beam.grown, beam.stale = text, text.held, True

    def _judge(self, beams: Sequence[_Beam]) -> Generator[Round, Sequence[Result], None]:
        """The score of every text that is new, always behind the ORIGINAL instruction."""
        fresh = [beam for beam in beams if beam.stale]
        scored = yield from score_after_one(
            [Score(self.task.prompts, beam.text, self.task.roles.score, beam.read) for beam in fresh],
            kept=[held for beam in beams for held in (beam.text.held, beam.grown, beam.read)],
        )
        for beam, one in zip(fresh, scored, strict=True):
            beam.value, beam.read, beam.stale = one.value, one.held, False

    def _overwrite(self, beams: Sequence[_Beam], best: Sequence[int]) -> None:
        """Every unfinished beam that is none of the best goes on from a copy of one of them, under its own instruction."""
        for place, beam in enumerate(beams):
            if place in best or beam.text.finish_reason is not None:
                continue
            winner = beams[self.chance.choice(best)]
            held = winner.text.held if winner.prompts == beam.prompts else beam.grown
            beam.text, beam.value, beam.read = replace(winner.text, held=held), winner.value, winner.read

    def _record(self, beams: Sequence[_Beam], wins: Counter[int]) -> None:
        """The best text stays; the instructions most often among the best join the archive with their best reward."""
        self._consider(beams)
        often: Counter[str] = Counter()
        for place, count in wins.items():
            often[beams[place].instruction] += count
        order = list(dict.fromkeys(beam.instruction for beam in beams))
        joining = sorted((one for one in order if often[one]), key=lambda one: -often[one])
        for instruction in joining[: self.parameters.archive_add]:
            reward = max(beam.value for beam in beams if beam.instruction == instruction)
            self.archive[instruction] = max(reward, self.archive.get(instruction, reward))

    def _consider(self, beams: Sequence[_Beam]) -> None:
        for beam in beams:
            if self.best is None or self.best.score is None or beam.value > self.best.score:
                self.best = Answer(beam.text, beam.value)

    def _note(self, text: str) -> str:
        return f"darwin iteration {self.iteration}/{self.parameters.iterations}, {text}"


def _plain(like: SamplingParams, temperature: float, top_k: int) -> SamplingParams:
    """How a rewriting is drawn: nothing of the request but its seed, length and ends."""
    from server.engine import SamplingParams

    return SamplingParams(
        like.max_tokens, temperature, top_k=top_k, seed=like.seed, stop_token_ids=like.stop_token_ids
    )

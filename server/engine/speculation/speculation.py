"""Guessing tokens ahead, so that the base reads several at once; docs/speculation.md.

A guess is drawn with the noise of its position, as the token itself will be, and stands if that is the same token: the answer
is what it would be without. Guesses take no room and no part of a step that anything else needs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from server.engine.chunk import Chunk
from server.engine.config import EngineConfig
from server.engine.sampling.mix import mix_logits
from server.engine.sampling.penalties import adjust
from server.engine.sampling.readout import Readout
from server.engine.sampling.sampler import sample
from server.engine.scheduler import Scheduler, Step
from server.engine.sequence import Sequence as Running
from server.engine.speculation.drafting import OVERALL_KEEP, OWN_KEEP, PROMPT, REWARDS, Acceptance
from server.engine.speculation.pace import Offer, Pace

Forward = Callable[[Mapping[str, Sequence[Chunk]]], dict[str, torch.Tensor]]
"""Runs members over chunks; by member, their logits."""

HIGHEST = 0.98
"""Nobody is ever surer than this that a guess stands."""


@dataclass(slots=True)
class _Candidates:
    """Sequences that ``kind`` can guess for, how far, and, where they are known before, the guesses."""

    kind: str
    sequences: list[Running]
    most: list[int]
    guesses: list[list[int]]

    def add(self, sequence: Running, most: int, guesses: list[int]) -> None:
        self.sequences.append(sequence)
        self.most.append(most)
        self.guesses.append(guesses)


class Speculation:
    """Who guesses, for which sequences, how far ahead. ``draft_tokens`` and ``accepted_tokens`` count from the start.

    Args:
        members: names, the base's first.
        vocab_size: guesses are below this.
    """

    def __init__(
        self, members: Sequence[str], vocab_size: int, scheduler: Scheduler, config: EngineConfig, pace: Pace
    ) -> None:
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self._base, *self._rewards = members
        self._last_token = vocab_size - 1
        self._scheduler = scheduler
        self._config = config
        self._pace = pace
        self._overall = {kind: Acceptance(7, 10) for kind in self._kinds}  # hopeful, so that it is tried
        self._guessed: list[Running] = []
        self._kind = ""

    @property
    def _kinds(self) -> tuple[str, ...]:
        asked = self._config.speculation
        return {"off": (), "auto": (REWARDS, PROMPT)}.get(asked, (asked,))

    def meet(self, members: Sequence[str], gone: Iterable[str] = ()) -> None:
        """From now on these are the members, the base's first; what is known of those that are ``gone`` is forgotten."""
        self._base, *self._rewards = members
        for name in gone:
            self._pace.forget(name)

    def begin(self) -> None:
        """A step begins."""
        self._guessed = []
        if self._kinds:
            self._pace.begin()

    def guess(self, step: Step, readout: Readout, forward: Forward) -> None:
        """Let ``step`` read guesses too, where that pays: its chunks then hold them.

        What the rewards have to be run for to make them is added to ``readout``, and is no longer in the chunks.
        """
        if not (self._kinds and step.drawing):
            return
        ready, plain = _decoding(step)
        if not ready or not self._pace.considers(len(ready), frozenset(step.chunks), plain=plain):
            return
        candidates = [self._candidates(kind, ready, self._spare(step)) for kind in self._kinds]
        offers = {one.kind: self._offer(one) for one in candidates if one.sequences}
        plan = self._pace.choose(list(offers.values())) if offers else None
        if plan is None:
            return
        chosen = next(one for one in candidates if one.kind == plan.offer.kind)
        self._kind = chosen.kind
        if chosen.kind == REWARDS:
            lengths = dict(zip(chosen.sequences, plan.lengths, strict=True))
            self._by_rewards(
                step, {one: length for one, length in lengths.items() if length}, readout, forward
            )
        else:
            for sequence, length, guesses in zip(chosen.sequences, plan.lengths, chosen.guesses, strict=True):
                sequence.drafting.tokens = guesses[:length]
            self._guessed = [one for one in chosen.sequences if one.drafting.tokens]
            self._read(step, step.chunks)

    def end(self, step: Step, drawn: int) -> None:
        """Every token of the step is drawn: what was read of wrong guesses is as if it had not been."""
        rows = sum(len(chunk.tokens) for chunk in step.chunks.get(self._base, ())) or len(step.drawing)
        for sequence in self._guessed:
            self._settle(sequence)
        if self._guessed:
            self._learn()
        if self._kinds:
            self._pace.end(rows, drawn)

    def abandon(self) -> None:
        """The step was undone: what it guessed is forgotten, but that some of it was drawn."""
        if self._guessed:
            self._learn()
        self._guessed = []

    def _settle(self, sequence: Running) -> None:
        if sequence.id in self._scheduler:
            for name in sequence.active:
                sequence.contexts[name].computed += sequence.drafting.stood

    def _learn(self) -> None:
        """Count, and remember how well it went."""
        stood = tried = 0
        for sequence in self._guessed:
            drafting = sequence.drafting
            stood += drafting.stood
            tries = drafting.stood + drafting.missed
            tried += tries
            own = drafting.acceptance.setdefault(self._kind, Acceptance())
            own.add(drafting.stood, tries, OWN_KEEP)
            self.draft_tokens += len(drafting.tokens)
            drafting.clear()
        self.accepted_tokens += stood
        self._overall[self._kind].add(stood, tried, OVERALL_KEEP)

    def _spare(self, step: Step) -> int:
        """Tokens by which a member's share of the step may grow."""
        most = max(sum(len(chunk.tokens) for chunk in chunks) for chunks in step.chunks.values())
        return self._config.max_step_tokens - most

    def _candidates(self, kind: str, ready: Iterable[Running], spare: int) -> _Candidates:
        candidates = _Candidates(kind, [], [], [])
        for sequence in ready:
            most = min(self._config.max_draft, self._scheduler.spare(sequence), spare)
            guesses: list[int] = []
            if most > 0 and kind == PROMPT:
                guesses = _repeated(sequence, most)
                most = len(guesses)
            if most > 0 and (kind == PROMPT or self._sharpness(sequence)):
                candidates.add(sequence, most, guesses)
                spare -= most
        return candidates

    def _offer(self, candidates: _Candidates) -> Offer:
        kind = candidates.kind
        prior = self._overall[kind].share
        odds = [_odds(sequence, kind, prior) for sequence in candidates.sequences]
        return Offer(kind, candidates.most, odds)

    def _sharpness(self, sequence: Running) -> float:
        """What the rewards' weights are multiplied by, to stand for the base too; 0 where they cannot."""
        if sequence.request.power:
            return 0.0
        base = sequence.mix.get(self._base, 0.0)
        rewards = sum(sequence.mix.get(name, 0.0) for name in self._rewards)
        return (base + rewards) / rewards if base > 0 and rewards > 0 else 0.0

    def _by_rewards(
        self, step: Step, lengths: dict[Running, int], readout: Readout, forward: Forward
    ) -> None:
        """Rewards read the last token and guess; then that guess, and so on. The last guess they read beside the base."""
        self._guessed = drafting = list(lengths)
        owners = {one.id for one in drafting}
        taken: dict[str, list[Chunk]] = {}
        for name in self._rewards:
            chunks = step.chunks.pop(name, [])
            taken[name] = [chunk for chunk in chunks if chunk.owner in owners]
            if rest := [chunk for chunk in chunks if chunk.owner not in owners]:
                step.chunks[name] = rest
        chunks_now = {name: chunks for name, chunks in taken.items() if chunks}
        while drafting:
            readout.add(chunks_now, forward(chunks_now))
            self._draw(drafting, readout)
            self._pace.guessed(len(drafting))
            going = [one for one in drafting if not _complete(one, lengths[one])]
            chunks_now = self._next(going)
            for name, chunks in self._next([one for one in drafting if one not in going]).items():
                step.chunks.setdefault(name, []).extend(chunks)
            drafting = going
        self._read(step, {self._base: step.chunks[self._base]})

    def _next(self, sequences: Sequence[Running]) -> dict[str, list[Chunk]]:
        """By reward, the last guesses of sequences as something to read."""
        chunks: dict[str, list[Chunk]] = {}
        for one in sequences:
            for name in self._rewards:
                if one.mix.get(name):
                    place = one.total(name) + len(one.drafting.tokens) - 1
                    chunks.setdefault(name, []).append(
                        Chunk(
                            one.id,
                            one.drafting.tokens[-1:],
                            place,
                            False,
                            1,
                            condition=one.conditions.get(name, ()),
                        )
                    )
        return chunks

    def _draw(self, drafting: Sequence[Running], readout: Readout) -> None:
        """One guess more for each."""
        parts = readout.latest(drafting, self._rewards, [self._sharpness(one) for one in drafting])
        mixed = mix_logits(parts, len(drafting))
        changed = [row for row, one in enumerate(drafting) if one.adjusts]
        if changed:
            mixed = mixed.clone()
        for row in changed:
            one = drafting[row]
            ahead = len(one.drafting.tokens)
            # Where the grammar stands further on is not known before these tokens are drawn.
            allowed = None if ahead else _allowed(one)
            adjust(mixed[row], one.request.sampling, len(one.response) + ahead, one.history, allowed)
        draws = [one.request.sampling.draw(one.position + len(one.drafting.tokens)) for one in drafting]
        for one, token in zip(drafting, sample(mixed, draws).tolist(), strict=True):
            # A row without any number gives a token that is none; as a guess, any will do.
            one.drafting.tokens.append(min(token, self._last_token))

    def _read(self, step: Step, chunks: Mapping[str, Sequence[Chunk]]) -> None:
        """Let the members of ``chunks`` read the guesses behind the last token, and say what follows each."""
        guesses = {one.id: one.drafting.tokens for one in self._guessed}
        for name in chunks:
            step.chunks[name] = [_longer(chunk, guesses.get(str(chunk.owner), ())) for chunk in chunks[name]]


def _decoding(step: Step) -> tuple[list[Running], bool]:
    """The drawing sequences for which every member reads one token of the response, and whether nothing else is read."""
    busy = {one.id for one in step.drawing if one.candidates is not None}
    for chunks in step.chunks.values():
        busy.update(
            str(one.owner) for one in chunks if len(one.tokens) != 1 or one.is_prompt or not one.logits
        )
    if not busy and not step.forks:
        return step.drawing, True
    sharing = {*step.forks, *(leader.id for leader in step.forks.values())}
    return [one for one in step.drawing if one.id not in busy and one.id not in sharing], False


def _allowed(sequence: Running) -> torch.Tensor | None:
    """What the grammar allows next, where there is one; what it trips over is told when the token itself is drawn."""
    try:
        return sequence.matcher.allowed() if sequence.matcher else None
    except Exception:
        return None


def _repeated(sequence: Running, most: int) -> list[int]:
    """What followed when the text last read as it does now; nothing where the grammar forbids it."""
    prompt = next(iter(sequence.contexts.values())).prompt
    guesses = sequence.drafting.continuation(prompt, sequence.response, most)
    allowed = _allowed(sequence) if guesses else None
    return guesses if allowed is None or bool(allowed[guesses[0]]) else []


def _odds(sequence: Running, kind: str, prior: float) -> float:
    own = sequence.drafting.acceptance.get(kind)
    return min(max(own.share_given(prior) if own else prior, 0.01), HIGHEST)


def _complete(sequence: Running, length: int) -> bool:
    """Whether no guess is to follow the last one."""
    tokens = sequence.drafting.tokens
    return len(tokens) >= length or tokens[-1] in sequence.request.sampling.stop_token_ids


def _longer(chunk: Chunk, guesses: Sequence[int]) -> Chunk:
    if not guesses:
        return chunk
    return replace(chunk, tokens=[*chunk.tokens, *guesses], logits=1 + len(guesses))

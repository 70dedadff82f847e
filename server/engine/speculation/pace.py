"""How far ahead to guess: as far as it makes more tokens a second, by what was measured, and not at all where it does not.

A plan is judged by the tokens it is expected to make over the seconds it is expected to take. Both are estimates, so what
guessing really gained or lost is kept on an account in seconds, which has a little of every step's time paid in: below zero
nobody guesses. Whatever the estimates say, guessing therefore never loses more than that share.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.engine.speculation.costs import Costs
from server.engine.speculation.drafting import REWARDS

SHARE = 0.01
"""Of the time of steps without guesses, what guessing may lose."""

SAVINGS = 4
"""Steps' worth that the account holds at most: what guessing once gained does not pay for losing it later."""

WORTHWHILE = 1.03
"""How much faster than no guesses a plan must look."""

KNOWN = 3
"""Steps without guesses that are measured before there is anything to compare with."""

TURN = 8
"""Steps for which a decision holds."""

REFERENCE = 64
"""Steps with guesses after which one without is measured again."""

_WORTHS = tuple(0.95 * 0.85**number for number in range(16))
"""The chances of standing that the last guess of a plan may have."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Guesses that ``kind`` can make in a step.

    ``most``: for each sequence that has any, how many. ``odds``: for each of them, the chance of one to stand, 0 to 1.
    """

    kind: str
    most: Sequence[int]
    odds: Sequence[float]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which offer to take, and how many guesses of each of its sequences."""

    offer: Offer
    lengths: tuple[int, ...]


class Pace(Protocol):
    """Decides how far ahead to guess; told when steps and their parts end."""

    def begin(self) -> None:
        """A step begins."""

    def considers(self, rows: int, members: frozenset[str], *, plain: bool) -> bool:
        """Whether guessing is to be thought of in this step.

        ``rows``: sequences that could have guesses; ``members`` that run; ``plain``: whether nothing else is done in it.
        """

    def choose(self, offers: Sequence[Offer]) -> Plan | None:
        """What to guess, if anything; called where it is considered and somebody has guesses."""

    def guessed(self, rows: int) -> None:
        """The rewards have made a guess for so many sequences."""

    def end(self, rows: int, drawn: int) -> None:
        """A step ends in which the base read ``rows`` tokens, and ``drawn`` were drawn."""

    def forget(self, member: str) -> None:
        """There is no such member any more."""


@dataclass(slots=True)
class _Known:
    """Costs of steps that run the same members: without guesses, of one guess, and of what is left of a step with guesses."""

    alone: Costs = field(default_factory=Costs)
    guess: Costs = field(default_factory=Costs)
    check: dict[str, Costs] = field(default_factory=dict)


class AdaptivePace:
    """Guesses as far ahead as pays; ``clock`` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._costs: dict[frozenset[str], _Known] = {}
        self._account = 0.0
        self._rest = 0  # steps until guessing is thought of again
        self._streak = 0  # steps with guesses since one without
        self._held: tuple[str, float] | None = None  # whose guesses are taken, down to which chance
        self._hold = 0  # steps for which that holds
        self._trial = 0  # whose turn it is to be tried
        self._known = _Known()
        self._rows = 0
        self._plain = False
        self._plan: Plan | None = None
        self._guesses: list[tuple[int, float]] = []
        self._began = self._lap = 0.0

    def begin(self) -> None:
        """See :class:`Pace`."""
        self._began = self._lap = self._clock()
        self._plan = None
        self._plain = False
        self._guesses.clear()

    def considers(self, rows: int, members: frozenset[str], *, plain: bool) -> bool:
        """See :class:`Pace`."""
        self._rows, self._plain = rows, plain
        self._known = self._costs.setdefault(members, _Known())
        if self._account < 0 or self._known.alone.count(rows) < KNOWN:
            return False
        if self._streak >= REFERENCE:
            self._streak = 0
            return False
        if self._rest and plain:
            self._rest -= 1
        return not self._rest

    def choose(self, offers: Sequence[Offer]) -> Plan | None:
        """See :class:`Pace`."""
        if self._hold:
            self._hold -= 1
            for offer in offers:
                if self._held and offer.kind == self._held[0]:
                    return self._take(Plan(offer, _lengths(offer, self._held[1])))
        alone = self._rows / self._alone()
        plans = [(offer, worth, _lengths(offer, worth)) for offer in offers for worth in _WORTHS]
        rates = [self._rate(offer, lengths) for offer, _, lengths in plans]
        best = max(range(len(plans)), key=rates.__getitem__)
        if rates[best] >= WORTHWHILE * alone:
            offer, worth, lengths = plans[best]
            self._held, self._hold = (offer.kind, worth), TURN - 1
            return self._take(Plan(offer, lengths))
        self._hold, self._rest = 0, TURN
        return self._try(offers) if self._plain else None

    def guessed(self, rows: int) -> None:
        """See :class:`Pace`."""
        now = self._clock()
        self._guesses.append((rows, now - self._lap))
        self._lap = now

    def end(self, rows: int, drawn: int) -> None:
        """See :class:`Pace`."""
        if not self._plain:
            return
        left = self._clock() - self._lap
        if self._plan is None:
            self._account += SHARE * self._known.alone.add(rows, left)
        else:
            seconds = self._check(self._plan.offer.kind).add(rows, left)
            seconds += sum(self._known.guess.add(*guess) for guess in self._guesses)
            self._account += drawn / self._rows * self._alone() - seconds
            self._streak += 1
        self._account = min(self._account, SAVINGS * self._alone())

    def forget(self, member: str) -> None:
        """See :class:`Pace`."""
        self._costs = {members: known for members, known in self._costs.items() if member not in members}

    def _take(self, plan: Plan) -> Plan | None:
        self._plan = plan if any(plan.lengths) else None
        return self._plan

    def _try(self, offers: Sequence[Offer]) -> Plan | None:
        """One guess for every sequence, to see whether things have changed, where the account has what that may lose."""
        self._trial += 1
        offer = offers[self._trial % len(offers)]
        lengths = (1,) * len(offer.most)
        loss = self._seconds(offer, lengths) - self._drawn(offer, lengths) / self._rows * self._alone()
        return self._take(Plan(offer, lengths)) if self._account >= loss else None

    def _alone(self) -> float:
        """Seconds of a step without guesses."""
        return self._known.alone.at(self._rows) or 1e-9

    def _check(self, kind: str) -> Costs:
        return self._known.check.setdefault(kind, Costs())

    def _rate(self, offer: Offer, lengths: Sequence[int]) -> float:
        """Tokens a second."""
        return self._drawn(offer, lengths) / self._seconds(offer, lengths)

    def _drawn(self, offer: Offer, lengths: Sequence[int]) -> float:
        """Tokens that a step is expected to make: one of every sequence, and the guesses that stand."""
        gained = (
            odds * (1 - odds**length) / (1 - odds) for odds, length in zip(offer.odds, lengths, strict=True)
        )
        return self._rows + sum(gained)

    def _seconds(self, offer: Offer, lengths: Sequence[int]) -> float:
        """What a step is expected to take; where nothing was measured, what speaks for trying it."""
        rows = self._rows + sum(lengths)
        checks = self._check(offer.kind).at(rows)
        seconds = checks if checks is not None else self._known.alone.at(rows) or 0.0
        if offer.kind == REWARDS:
            deepest = max(lengths, default=0)
            guessing = (sum(length > depth for length in lengths) for depth in range(deepest))
            seconds += sum(self._known.guess.at(count) or 0.0 for count in guessing)
        return max(seconds, 1e-9)


def _lengths(offer: Offer, worth: float) -> tuple[int, ...]:
    """The guesses whose chance of standing, with all before them, is at least ``worth``."""
    depth = math.log(worth)
    return tuple(
        min(most, int(depth / math.log(odds) + 1e-9))
        for most, odds in zip(offer.most, offer.odds, strict=True)
    )

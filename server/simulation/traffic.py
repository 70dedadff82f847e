"""Who comes when, and with what: users with sessions of several turns, drawn from one seed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.simulation.lengths import Lengths
from server.simulation.request import Prompt, Request

MOST_REWARDS = 12
"""Every set of them is a group of users."""


@dataclass(frozen=True, slots=True)
class TrafficSettings:
    """What users do.

    Attributes:
        turns: of a session. Each turn's prompt is the one before, its answer and ``message`` new tokens.
        system_tokens: length of the system prompts; ``systems`` of them are in use, the k-th in proportion to 1/k.
        message, output: tokens of a user's message and of an answer.
        think: seconds from an answer's end to the session's next turn.
        longest: a session ends before a turn whose prompt and answer would be longer.
        guided: share of the sessions that weigh rewards: as many of the ``rewards`` as a fair die says, which ones is drawn too.
        burst: 1 is a Poisson process; above it sessions begin only in 1/burst of the time, at ``burst`` times the rate, in
            periods of ``period`` seconds on average.
    """

    turns: str = "1-4"
    systems: int = 8
    system_tokens: int = 256
    message: str = "16-128"
    output: str = "16-128"
    think: str = "exponential:10"
    longest: int = 2048
    guided: float = 0.5
    rewards: int = 2
    burst: float = 1.0
    period: float = 30.0

    def __post_init__(self) -> None:
        for name in ("turns", "message", "output", "think"):
            Lengths.parse(getattr(self, name))
        if not 0 <= self.guided <= 1:
            raise ValueError(f"guided must be in [0, 1], not {self.guided}")
        if self.systems < 1 or self.system_tokens < 0 or self.rewards < 0:
            raise ValueError("systems must be at least 1, system_tokens and rewards at least 0")
        if self.rewards > MOST_REWARDS:
            raise ValueError(f"rewards must be at most {MOST_REWARDS}, not {self.rewards}")
        if self.guided and not self.rewards:
            raise ValueError("guided traffic needs rewards")
        if self.burst < 1 or not self.period > 0:
            raise ValueError("burst must be at least 1 and period above 0")
        if self.longest < self.system_tokens + 2:
            raise ValueError(f"longest must leave room behind {self.system_tokens} system tokens")

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)


class Traffic:
    """Sessions that begin at ``starts`` [sessions] seconds and have ``counts`` [sessions] turns each, which lie one behind the
    other in the arrays of turns; session s has turns ``first[s]`` to ``first[s + 1]``.

    [turns]: ``prompts`` and ``outputs`` in tokens; ``thinks`` in seconds from the end of the turn before. [sessions]:
    ``systems``; ``groups``, which index ``members``.

    ``at_once``: so many sessions are under way at any time, and the next begins when one is over; ``starts`` say nothing then.
    """

    def __init__(
        self,
        starts: NDArray[np.float64],
        counts: NDArray[np.int64],
        systems: NDArray[np.int64],
        system_tokens: int,
        prompts: NDArray[np.int64],
        outputs: NDArray[np.int64],
        thinks: NDArray[np.float64],
        groups: NDArray[np.int64],
        members: tuple[tuple[int, ...], ...],
        at_once: int | None = None,
    ) -> None:
        self.starts = starts.tolist()
        self.counts = counts.tolist()
        self.first = np.concatenate([[0], np.cumsum(counts)]).tolist()
        self.systems = systems.tolist()
        self.system_tokens = system_tokens
        self.prompts = prompts.tolist()
        self.outputs = outputs.tolist()
        self.thinks = thinks.tolist()
        self.groups = groups.tolist()
        self.members = members
        self.at_once = at_once

    def __len__(self) -> int:
        """Turns."""
        return len(self.prompts)

    @property
    def sessions(self) -> int:
        """How many there are."""
        return len(self.starts)

    def request(self, session: int, turn: int) -> Request:
        """The request of a session's turn, both from 0."""
        number = self.first[session] + turn
        length = self.prompts[number]
        prompt = Prompt(self.systems[session], self.system_tokens, session, length)
        return Request(number, prompt, self.outputs[number], self.members[self.groups[session]])

    def think(self, session: int, turn: int) -> float:
        """Seconds a user thinks before this turn."""
        return float(self.thinks[self.first[session] + turn])

    def requests(self) -> Iterator[Request]:
        """All of them, session by session."""
        for session, count in enumerate(self.counts):
            for turn in range(count):
                yield self.request(session, turn)

    @property
    def output_tokens(self) -> int:
        """Of all answers."""
        return sum(self.outputs)


def draw_crowd(settings: TrafficSettings, at_once: int, requests: int, seed: int) -> Traffic:
    """The same users as :func:`draw_traffic` has, ``at_once`` of them at any time, none of whom thinks.

    Raises:
        ValueError: as there, or ``at_once`` is below 1.
    """
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, not {at_once}")
    traffic = draw_traffic(replace(settings, think="0"), 1.0, requests, seed)
    traffic.at_once = at_once
    return traffic


def draw_traffic(settings: TrafficSettings, rate: float, requests: int, seed: int) -> Traffic:
    """Sessions of at least ``requests`` turns together, less those cut for their length; ``rate`` turns a second are asked for.

    The same seed gives the same users whatever the rate: only when they come is stretched.

    Raises:
        ValueError: ``rate`` or ``requests`` is not above 0, or no turn is short enough.
    """
    if not rate > 0 or requests < 1:
        raise ValueError(f"rate and requests must be above 0, not {rate} and {requests}")
    streams = [np.random.default_rng([seed, number]) for number in range(8)]
    turns, message, output = (
        Lengths.parse(text) for text in (settings.turns, settings.message, settings.output)
    )
    wanted = turns.draw_whole(streams[0], requests)
    sessions = int(np.searchsorted(np.cumsum(wanted), requests)) + 1
    wanted = wanted[:sessions]
    messages = message.draw_whole(streams[1], int(wanted.sum()))
    outputs = output.draw_whole(streams[2], int(wanted.sum()))
    prompts = _prompts(wanted, messages, outputs, settings.system_tokens)
    fits = _fitting(wanted, prompts + outputs, settings.longest)
    counts = np.add.reduceat(fits.astype(np.int64), np.concatenate([[0], np.cumsum(wanted)[:-1]]))
    began = counts > 0
    if not began.any():
        raise ValueError(f"no first turn is within {settings.longest} tokens")
    thinks = Lengths.parse(settings.think).draw(streams[3], len(prompts))
    groups, members = _groups(settings, sessions, streams[4])
    starts = _starts(settings, rate * began.sum() / max(1, counts.sum()), int(began.sum()), streams[5])
    return Traffic(
        starts,
        counts[began],
        _systems(settings, sessions, streams[6])[began],
        settings.system_tokens,
        prompts[fits],
        outputs[fits],
        thinks[fits],
        groups[began],
        members,
    )


def _prompts(
    counts: NDArray[np.int64], messages: NDArray[np.int64], outputs: NDArray[np.int64], system: int
) -> NDArray[np.int64]:
    """Tokens of each turn's prompt: the system's, and messages and answers of the session so far."""
    before = np.concatenate([[0], np.cumsum(messages + outputs)])
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    history = before[:-1] - np.repeat(before[firsts], counts)
    prompts: NDArray[np.int64] = system + history + messages
    return prompts


def _fitting(counts: NDArray[np.int64], ends: NDArray[np.int64], longest: int) -> NDArray[np.bool_]:
    """Turns before the first one of their session that would be too long. Prompts grow, so what follows it is too."""
    fits = np.ones(len(ends), dtype=bool)
    start = 0
    too_long = ends > longest
    for count in counts.tolist() if too_long.any() else ():
        own = too_long[start : start + count]
        if own.any():
            fits[start + int(np.argmax(own)) : start + count] = False
        start += count
    return fits


def _groups(
    settings: TrafficSettings, sessions: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], tuple[tuple[int, ...], ...]]:
    """By session, who reads: a bit mask of rewards; and by mask, the members' numbers."""
    masks = range(1 << settings.rewards)
    members = tuple((0, *(1 + bit for bit in range(settings.rewards) if mask >> bit & 1)) for mask in masks)
    order = rng.random((sessions, max(1, settings.rewards))).argsort(axis=1)
    count = rng.integers(1, settings.rewards + 1, sessions) if settings.rewards else np.zeros(sessions, int)
    chosen = np.where(order < count[:, None], 1 << np.arange(max(1, settings.rewards)), 0).sum(axis=1)
    guided = rng.random(sessions) < settings.guided
    return np.where(guided, chosen, 0), members


def _starts(
    settings: TrafficSettings, rate: float, sessions: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """When sessions begin, the first at 0 where they come as a Poisson process."""
    gaps = rng.exponential(1 / (rate * settings.burst), sessions)
    gaps[0] = 0.0
    busy = np.cumsum(gaps)
    if settings.burst == 1:
        return busy
    # Time in which sessions come, and the breaks between.
    on, off = settings.period / settings.burst, settings.period * (1 - 1 / settings.burst)
    count = 16 + int(2 * busy[-1] / on) + 8 * int(np.sqrt(busy[-1] / on))
    ends = np.cumsum(rng.exponential(on, count))
    while ends[-1] < busy[-1]:
        ends = np.concatenate([ends, ends[-1] + np.cumsum(rng.exponential(on, count))])
    breaks = np.cumsum(rng.exponential(off, len(ends)))
    period = np.searchsorted(ends, busy)
    return busy + np.where(period > 0, breaks[np.maximum(0, period - 1)], 0.0)


def _systems(settings: TrafficSettings, sessions: int, rng: np.random.Generator) -> NDArray[np.int64]:
    weights = 1 / np.arange(1, settings.systems + 1)
    return rng.choice(settings.systems, sessions, p=weights / weights.sum())

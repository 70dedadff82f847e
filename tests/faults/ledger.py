"""What a soak has seen: how often what came of which request, what must not be, and answers to ask for again."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from tests.faults.readers import Heard
from tests.faults.traffic import CODES, Asked

EXACT = frozenset({"whole", "several", "streamed", "search", "steered", "slow"})
"""Kinds whose answers, read to the end, have to be right."""

READ = EXACT | {"newcomer", "endless"}
"""Kinds that are read to the end: a stream says that it is there."""

IN_STREAMS = frozenset({CODES[503], CODES[504]})
"""Errors that a stream may end with."""

MOST = 20
"""More complaints are counted and not kept."""


@dataclass
class Ledger:
    """One soak's books.

    Attributes:
        most: answers that are kept, evenly from all of them.
        outcomes: by kind and what came of it.
        broken: what must not be, in words.
    """

    most: int
    rng: random.Random
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: int = 0
    broken: list[str] = field(default_factory=list)
    complaints: int = 0
    samples: list[tuple[Asked, Heard]] = field(default_factory=list)
    _whole: int = 0

    @property
    def requests(self) -> int:
        """Requests that came to an end, whichever."""
        return self.outcomes.total()

    @property
    def by_kind(self) -> dict[str, dict[str, int]]:
        """How often which outcome came of each kind, in order."""
        kinds: dict[str, dict[str, int]] = defaultdict(dict)
        for (kind, outcome), count in sorted(self.outcomes.items()):
            kinds[kind][outcome] = count
        return dict(kinds)

    def take(self, asked: Asked, heard: Heard) -> None:
        """A request is over."""
        self.outcomes[asked.kind, _outcome(heard)] += 1
        self.tokens += heard.tokens
        if what := _broken(asked, heard):
            self.complain(f"{asked.kind}: {what}; asked {asked.sent[:300]!r}")
        elif heard.status == 200 and heard.error is None and asked.kind in EXACT:
            self._keep(asked, heard)

    def count(self, outcome: str) -> int:
        """How often it came to this, whatever was asked."""
        return sum(count for (_, one), count in self.outcomes.items() if one == outcome)

    def complain(self, what: str) -> None:
        """Something must not be."""
        self.complaints += 1
        if len(self.broken) < MOST:
            self.broken.append(what)

    def _keep(self, asked: Asked, heard: Heard) -> None:
        """Every answer so far is among the kept ones with the same probability."""
        self._whole += 1
        if len(self.samples) < self.most:
            self.samples.append((asked, heard))
        elif (place := self.rng.randrange(self._whole)) < self.most:
            self.samples[place] = asked, heard


def _outcome(heard: Heard) -> str:
    """A status; the code that a stream ended with; or who ended the connection first."""
    if heard.cut:
        return "cut"
    if heard.status == 200 and heard.error is not None:
        return str(heard.error.get("code"))
    return str(heard.status) if heard.status else "left"


def _broken(asked: Asked, heard: Heard) -> str:
    """What is not as promised of an answer, whatever it says."""
    code = None if heard.error is None else heard.error.get("code")
    if heard.broken:
        return heard.broken
    if heard.status and heard.status not in asked.allowed:
        return f"status {heard.status}: {heard.error}"
    if heard.status in CODES and heard.error is not None and code != CODES[heard.status]:
        return f"status {heard.status} with code {code}"
    if heard.status != 200:
        return ""
    if heard.error is not None:
        return "" if code in IN_STREAMS else f"a stream ended by {heard.error}"
    return "" if heard.whole or asked.kind not in READ else "a stream without [DONE]"

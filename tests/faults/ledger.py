"""What a soak has seen: how often what came of which request, what must not be, and answers to ask for again."""

import random
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.readers import Heard
from tests.faults.traffic import Asked

EXACT = frozenset({"whole", "several", "streamed", "search", "steered", "slow"})
"""Kinds whose answers, read to the end, have to be right."""

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

    def take(self, asked: Asked, heard: Heard) -> None:
        """A request is over."""
        outcome = "left" if not heard.status else str(heard.status)
        self.outcomes[asked.kind, outcome] += 1
        self.tokens += heard.tokens
        if heard.status and heard.status not in asked.allowed:
            self.complain(f"{asked.kind}: status {heard.status}: {heard.error}; asked {asked.sent[:300]!r}")
        elif heard.status == 200 and heard.error:
            self.complain(f"{asked.kind}: {heard.error}; asked {asked.sent[:300]!r}")
        elif heard.status == 200 and asked.kind in EXACT:
            if heard.whole:
                self._keep(asked, heard)
            else:
                self.complain(f"{asked.kind}: a stream without [DONE]; asked {asked.sent[:300]!r}")

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

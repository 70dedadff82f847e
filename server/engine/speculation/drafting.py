"""What speculation knows of one response: the guesses of the step under way, and how earlier ones fared."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from server.engine.speculation.lookup import Lookup

REWARDS, PROMPT = "rewards", "prompt"
"""Who guesses: the rewards, which are run anyway; or the text so far."""

OWN_KEEP, OVERALL_KEEP = 0.9, 0.98
"""What is left after each step of what earlier guesses say: of the same response, and of all."""

PRIOR_WEIGHT = 4.0
"""How many of a response's own guesses weigh as much as what is known of the others."""


@dataclass(slots=True)
class Acceptance:
    """How many guesses stood, of those that were tried: guesses behind a wrong one are not. Older ones count less."""

    stood: float = 0.0
    tried: float = 0.0

    @property
    def share(self) -> float:
        """0 to 1; something must have been tried."""
        return self.stood / self.tried

    def add(self, stood: int, tried: int, keep: float) -> None:
        """One step more; what came before counts ``keep`` times as much as it did."""
        self.stood = self.stood * keep + stood
        self.tried = self.tried * keep + tried

    def share_given(self, prior: float) -> float:
        """0 to 1; ``prior`` where little is known."""
        return (self.stood + PRIOR_WEIGHT * prior) / (self.tried + PRIOR_WEIGHT)


@dataclass(slots=True)
class Drafting:
    """Guesses of one response.

    Attributes:
        tokens: guessed in this step; they are to follow the response as it was when the step began.
        stood: of these, how many were drawn.
        missed: whether another token was drawn instead of one of them.
        goes_on: whether the last token drawn was the one guessed, so that another can be drawn in this step.
        accepted: guesses of all steps that were drawn.
        past: guesses of the steps before.
        acceptance: by who guessed.
        lookup: where the text so far repeats itself; None until somebody asks.
    """

    tokens: list[int] = field(default_factory=list)
    stood: int = 0
    missed: bool = False
    goes_on: bool = False
    accepted: int = 0
    past: int = 0
    acceptance: dict[str, Acceptance] = field(default_factory=dict)
    lookup: Lookup | None = None

    @property
    def rejected(self) -> int:
        """Guesses that were not drawn and no longer can be."""
        return self.past + (self.stood if self.goes_on else len(self.tokens)) - self.accepted

    def meet(self, token: int) -> None:
        """``token`` was drawn: is it the one guessed?"""
        due = self.stood < len(self.tokens)
        self.goes_on = due and self.tokens[self.stood] == token
        self.missed = due and not self.goes_on
        if self.goes_on:
            self.stood += 1
            self.accepted += 1

    def clear(self) -> None:
        """The step is over."""
        self.past += len(self.tokens)
        self.tokens = []
        self.stood = 0
        self.missed = self.goes_on = False

    def continuation(self, prompt: Sequence[int], response: Sequence[int], most: int) -> list[int]:
        """Up to ``most`` tokens that followed when the text last read as it does now."""
        if self.lookup is None:
            self.lookup = Lookup(prompt)
        self.lookup.extend(response[self.lookup.length - len(prompt) :])
        return self.lookup.continuation(most)

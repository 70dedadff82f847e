"""What guidance did to an answer, added up over its tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.engine import TokenReport

LOWEST = -9999.0
"""Stands for the log-prob of what is impossible: JSON has no infinity, and OpenAI writes it so."""


def finite(logprob: float) -> float:
    """A log-prob that JSON can hold."""
    return max(logprob, LOWEST)


@dataclass
class Tally:
    """Sums over tokens: KL(guided ‖ base) in nats, tokens where guidance moved the arg max, log-probs."""

    tokens: int = 0
    kl: float = 0.0
    flips: int = 0
    base_logprob: float = 0.0
    rewards: dict[str, float] = field(default_factory=dict)

    def add(self, report: TokenReport) -> None:
        """One more token."""
        self.tokens += 1
        self.kl += report.kl
        self.flips += report.base_top != report.mix_top
        self.base_logprob += finite(report.base_logprob)
        self._add_rewards({name: finite(logprob) for name, logprob in report.rewards.items()})

    @classmethod
    def total(cls, tallies: Iterable[Tally]) -> Tally:
        """Several answers as one."""
        total = cls()
        for tally in tallies:
            total.tokens += tally.tokens
            total.kl += tally.kl
            total.flips += tally.flips
            total.base_logprob += tally.base_logprob
            total._add_rewards(tally.rewards)
        return total

    def _add_rewards(self, rewards: Mapping[str, float]) -> None:
        for name, logprob in rewards.items():
            self.rewards[name] = self.rewards.get(name, 0.0) + logprob

"""The figures of an answer while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from server.terminal.service import GuidedToken, Summary


@dataclass
class Tally:
    """Tokens so far, their summed KL(guided ‖ base) in nats, and when the first and the last one came."""

    tokens: int = 0
    reported: int = 0
    kl: float = 0.0
    first: float = 0.0
    last: float = 0.0

    def add(self, tokens: Sequence[GuidedToken], count: int, now: float) -> None:
        """``count`` tokens came at ``now`` seconds, with these reports."""
        if count and not self.tokens:
            self.first = now
        if count:
            self.last = now
        self.tokens += count
        self.reported += len(tokens)
        self.kl += sum(token.kl for token in tokens)

    @property
    def rate(self) -> float | None:
        """Tokens per second from the first to the last; None where there is nothing between."""
        seconds = self.last - self.first
        return (self.tokens - 1) / seconds if seconds > 0 else None

    def figures(self, summary: Summary | None = None) -> list[str]:
        """What is known in words; the server's own figures, where it has given them."""
        mean_kl = self.kl / self.reported if self.reported else None
        flip_rate = None
        if summary is not None:
            mean_kl, flip_rate = summary.mean_kl, summary.flip_rate
        words = ["1 token" if self.tokens == 1 else f"{self.tokens} tokens"]
        words += [f"{self.rate:.1f} tokens/s"] if self.rate is not None else []
        words += [f"KL {mean_kl:.3f} nats/token"] if mean_kl is not None else []
        words += [f"flips {flip_rate:.0%}"] if flip_rate is not None else []
        return words

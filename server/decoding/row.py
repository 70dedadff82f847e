"""What a method asks of the engine for one request: a weight per member, and what else makes up a step's distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

BASE = "base"
NEGATIVE = "base.negative"
"""Members that have no name of their own: the model that is guided, and its second context."""


@dataclass(frozen=True)
class Candidates:
    """The ``k`` best tokens of the mix are scored: log π(v) + Σ ``weights[scorer]`` · r(v), the others are out."""

    k: int
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Negative:
    """What ``base.negative`` reads: ``prompt`` in place of the chat's system message (of a completion's whole prompt), or
    ``messages`` in place of the whole chat.
    """

    prompt: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None


@dataclass(frozen=True)
class Row:
    """One request's part of the batch.

    Attributes:
        mix: weight of each member's logits by member name, 0 is off. Members that are not in it have no prompt and cannot
            be weighted in later.
        power: 0 is the weighted sum of logits; else the weighted power mean (Σ w · π^−power)^(−1/power), normalized.
        conditions: the preference vector of each conditioned member that is weighted.
        candidates: how candidates are scored, if they are; its weights are to be read as the mix's.
        negative: what ``base.negative`` reads, where it is weighted.
    """

    mix: Mapping[str, float]
    power: float = 0.0
    conditions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    candidates: Candidates | None = None
    negative: Negative | None = None

    @property
    def members(self) -> frozenset[str]:
        """The members that are weighted in or may be later."""
        return frozenset({*self.mix, *(self.candidates.weights if self.candidates else ())})

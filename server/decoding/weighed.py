"""What a request's weights come to by name: what an operator's bounds on weights are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Weighed:
    """Weights of rewards, policies, scorers, objectives and the base's negative prompt, whichever of them a method has.

    Attributes:
        drawn: in what answers are drawn from. A name that is not there has no part in it.
        judged: in what drawn texts are chosen by, if they are.
        fades: whether the drawn weights may be scaled down to 0 while an answer is made.
    """

    drawn: Mapping[str, float]
    judged: Mapping[str, float] = field(default_factory=dict)
    fades: bool = False

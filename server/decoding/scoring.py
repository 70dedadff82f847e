"""What ``args`` and ``pargs`` share: the k best tokens of the base, each scored log π_base(v) + Σ_i (w_i/β) · r_i(prefix, v)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from server.config import MAX_WEIGHT
from server.decoding import method
from server.decoding.roster import Roster
from server.decoding.row import BASE, Candidates, Row
from server.decoding.weighed import Weighed
from server.decoding.weighing import chosen, over_beta


class ScoringParameters(method.Parameters):
    """``guidance`` keys of candidate scoring; ``w`` and ``scorer`` give one scorer's weight in place of ``preferences``."""

    stand_ins: ClassVar[tuple[str, ...]] = ("w", "scorer")

    k: int = Field(10, ge=1, le=256, description="candidates: the most likely tokens of the base")
    w: float = Field(1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT, description="weight of the scorer")
    scorer: str | None = Field(None, description="which scorer; may be left out where there is one")

    def weighed(self, preferences: Mapping[str, float], roster: Roster) -> Weighed:
        """The scorers at w/β; where there is one candidate, they have nothing to say."""
        return Weighed({}) if self.k == 1 else super().weighed(preferences, roster)


@dataclass
class Scoring:
    """A method that scores candidates with the scorers that were ``trained_on`` responses or prefixes."""

    name: str
    trained_on: str
    Parameters: type[method.Parameters]

    def names(self, roster: Roster) -> Sequence[str]:
        """Every scorer that was trained so."""
        return [scorer.name for scorer in roster.scorers if scorer.trained_on == self.trained_on]

    def needs(self, roster: Roster) -> str | None:
        """Such a scorer."""
        return None if self.names(roster) else f"scorers with trained_on: {self.trained_on}"

    def defaults(self, parameters: ScoringParameters, roster: Roster) -> Mapping[str, float]:
        """The chosen scorer at w.

        Raises:
            InvalidRequest: no such scorer, or none named among several.
        """
        return {chosen(parameters.scorer, self.names(roster), "guidance.scorer"): parameters.w}

    def row(self, preferences: Mapping[str, float], parameters: ScoringParameters, roster: Roster) -> Row:  # noqa: ARG002
        """The base alone, and its candidates scored.

        Raises:
            InvalidRequest: some |w/β| > 100.
        """
        weights = {name: over_beta(name, weight, parameters.beta) for name, weight in preferences.items()}
        return Row({BASE: 1.0}, candidates=Candidates(parameters.k, weights))

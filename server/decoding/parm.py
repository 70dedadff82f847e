"""PARM (arXiv 2505.06274): log π = log π_base + (Σ_i α_i/β) · log π_arm(·; p) − log Z with p = α/Σ α, one reward model for all
objectives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from server.config import MAX_WEIGHT
from server.decoding import method
from server.decoding.roster import Roster
from server.decoding.row import BASE, Row
from server.decoding.weighing import over_beta, without_negative
from server.errors import InvalidRequest


class Parm:
    """The base at weight 1 and the conditioned reward, which reads the preferences themselves."""

    name = "parm"
    Parameters: type[method.Parameters] = method.LinearParameters

    def names(self, roster: Roster) -> Sequence[str]:
        """The objectives of the conditioned reward."""
        return roster.conditioned.objectives if roster.conditioned else ()

    def needs(self, roster: Roster) -> str | None:
        """A conditioned reward."""
        return None if roster.conditioned else "conditioned"

    def defaults(self, parameters: method.LinearParameters, roster: Roster) -> Mapping[str, float]:  # noqa: ARG002
        """All objectives alike, with sum 1."""
        names = self.names(roster)
        return {name: 1 / len(names) for name in names}

    def row(
        self, preferences: Mapping[str, float], parameters: method.LinearParameters, roster: Roster
    ) -> Row:
        """{"base": 1, reward: Σ α/β} under the condition α/Σ α; all 0: the base alone.

        Raises:
            InvalidRequest: a preference is negative, or Σ α/β > 100.
        """
        special = roster.conditioned
        assert special is not None, "needs() comes first"
        without_negative(preferences)
        total = math.fsum(over_beta(name, alpha, parameters.beta) for name, alpha in preferences.items())
        if total > MAX_WEIGHT:
            raise InvalidRequest(
                f"The sum of preferences divided by guidance.beta is {total:g}; "
                f"it must not be larger than {MAX_WEIGHT:g}.",
                param="preferences",
            )
        if total == 0:
            return Row({BASE: 1.0, special.name: 0.0})
        largest = max(preferences.values())  # a sum of the smallest numbers there are would round badly
        shares = [preferences[name] / largest for name in special.objectives]
        condition = tuple(share / math.fsum(shares) for share in shares)
        return Row({BASE: 1.0, special.name: total}, conditions={special.name: condition})

"""Proxy-tuning (arXiv 2401.08565): log π = log π_base + Σ_i (α_i/β) · (log π_expert,i − log π_antiexpert,i) − log Z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.decoding import method
from server.decoding.roster import Reward, Roster
from server.decoding.row import BASE, Row
from server.decoding.weighing import with_rewards


class Proxy:
    """The base and what small tuned models differ by from their untuned selves: rewards that are pairs, and no others."""

    name = "proxy"
    Parameters: type[method.Parameters] = method.LinearParameters

    def names(self, roster: Roster) -> Sequence[str]:
        """Every reward that is a pair."""
        return [pair.name for pair in _pairs(roster)]

    def needs(self, roster: Roster) -> str | None:
        """A pair."""
        return None if _pairs(roster) else "rewards with a reference"

    def defaults(self, parameters: method.LinearParameters, roster: Roster) -> Mapping[str, float]:  # noqa: ARG002
        """What the deployment declares."""
        return {pair.name: pair.default for pair in _pairs(roster)}

    def row(
        self, preferences: Mapping[str, float], parameters: method.LinearParameters, roster: Roster
    ) -> Row:
        """{"base": 1, expert: α/β, anti-expert: −α/β}.

        Raises:
            InvalidRequest: some |α/β| > 100.
        """
        return Row(with_rewards({BASE: 1.0}, preferences, parameters.beta, roster))


def _pairs(roster: Roster) -> list[Reward]:
    return [reward for reward in roster.rewards if reward.reference is not None]

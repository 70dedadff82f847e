"""Which members draw and which score, from a request's preferences and the keys that searches share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from server.decoding.row import BASE
from server.decoding.search.task import Roles
from server.decoding.weighing import chosen, with_rewards
from server.errors import InvalidRequest, known

if TYPE_CHECKING:
    from server.decoding.roster import Roster
    from server.decoding.search.method import SearchParameters


def scorer_of(parameters: SearchParameters, roster: Roster) -> str | None:
    """The scorer that responses are chosen by; None where the rewards are what they are chosen by.

    Raises:
        InvalidRequest: there is no such scorer.
    """
    names = [scorer.name for scorer in roster.scorers]
    if parameters.scorer is None and (roster.rewards or len(names) != 1):
        return None
    return chosen(parameters.scorer, names, "guidance.scorer")


def read_roles(preferences: Mapping[str, float], parameters: SearchParameters, roster: Roster) -> Roles:
    """The base draws, alone or guided; the scorer scores, or Σ (α/β) · log π of the rewards (a pair's is a difference), or
    where a deployment has no rewards, its only scorer.

    Raises:
        InvalidRequest: there is no such scorer, nothing to score by, or some |α/β| is too large.
    """
    rewards = with_rewards({}, preferences, parameters.beta, roster)
    mix = (
        with_rewards({BASE: 1.0}, preferences, parameters.beta, roster) if parameters.guided else {BASE: 1.0}
    )
    judge = scorer_of(parameters, roster)
    if judge is not None:
        return Roles(mix, {judge: 1.0})
    if not any(rewards.values()):
        names = [scorer.name for scorer in roster.scorers]
        raise InvalidRequest(
            "A search needs something to choose by: a reward in 'preferences' that is not 0, or 'guidance.scorer' "
            f"(known: {known(names)}).",
            param="guidance.scorer",
        )
    return Roles(mix, {name: weight for name, weight in rewards.items() if weight})


class Rewarded:
    """What every search has in common: rewards may be named, and it needs rewards or scorers to choose by."""

    def names(self, roster: Roster) -> Sequence[str]:
        """The rewards."""
        return [reward.name for reward in roster.rewards]

    def needs(self, roster: Roster) -> str | None:
        """Something that scores."""
        return None if roster.scorers or roster.rewards else "rewards or scorers"

    def defaults(self, parameters: SearchParameters, roster: Roster) -> Mapping[str, float]:  # noqa: ARG002
        """The rewards' own, as without a search: they score, and guide where that is asked for."""
        return {reward.name: reward.default for reward in roster.rewards}

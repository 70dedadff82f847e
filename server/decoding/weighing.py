"""What methods share: α/β within its limit, rewards added to a mix, one model chosen among several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from server.config import MAX_WEIGHT
from server.decoding.roster import Roster
from server.errors import InvalidRequest, clip, known


def over_beta(name: str, alpha: float, beta: float) -> float:
    """α/β. Raises InvalidRequest where it is larger than ``MAX_WEIGHT`` in size."""
    # Compared before dividing: a tiny β would overflow.
    if abs(alpha) > MAX_WEIGHT * beta:
        raise InvalidRequest(
            f"preferences.{name} = {alpha:g} divided by guidance.beta = {beta:g} "
            f"must not be larger than {MAX_WEIGHT:g} in size.",
            param=f"preferences.{name}",
        )
    return alpha / beta


def with_rewards(
    mix: Mapping[str, float], preferences: Mapping[str, float], beta: float, roster: Roster
) -> dict[str, float]:
    """``mix`` + Σ (α/β) · reward over the rewards in ``preferences``: a model, or a pair's model minus its reference.

    Raises:
        InvalidRequest: some |α/β| is too large.
    """
    weighted = dict(mix)
    for reward in roster.rewards:
        if reward.name not in preferences:
            continue
        weight = over_beta(reward.name, preferences[reward.name], beta)
        weighted[reward.member] = weighted.get(reward.member, 0.0) + weight
        if reward.reference is not None:
            weighted[reward.reference] = weighted.get(reward.reference, 0.0) - weight
    return weighted


def chosen(name: str | None, among: Sequence[str], param: str) -> str:
    """``name``, or the only one there is.

    Raises:
        InvalidRequest: it is none of them, or there are several and none is named.
    """
    if name is None and len(among) == 1:
        return among[0]
    if name is not None and name in among:
        return name
    problem = "has to name one" if name is None else f"'{clip(name)}' is unknown"
    raise InvalidRequest(f"{param} {problem} (known: {known(among)}).", param=param)


def without_negative(preferences: Mapping[str, float]) -> None:
    """Raises InvalidRequest where a preference is negative."""
    for name, weight in preferences.items():
        if weight < 0:
            raise InvalidRequest(f"preferences.{name} must not be negative.", param=f"preferences.{name}")

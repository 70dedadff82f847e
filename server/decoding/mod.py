"""MOD (arXiv 2406.18853): policies combined without the base, with weights w of sum 1.

The closed form depends on the f-divergence that each policy was regularized with: π ∝ Π π_i^w_i for reverse KL,
(Σ w_i/π_i)^−1 for forward KL, (Σ w_i · π_i^−a)^(−1/a) for the α-divergence between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import Field

from server.decoding import method
from server.decoding.roster import Roster
from server.decoding.row import Row
from server.decoding.weighed import Weighed
from server.decoding.weighing import with_rewards, without_negative
from server.errors import InvalidRequest

TOLERANCE = 1e-6
"""How far from 1 the weights' sum may be."""


class ModParameters(method.LinearParameters):
    """``guidance`` keys of MOD."""

    divergence: Literal["reverse_kl", "forward_kl", "alpha"] = Field(
        "reverse_kl", description="what kept the policies near their reference in training"
    )
    divergence_alpha: float | None = Field(
        None, gt=0, lt=1, description="a of the α-divergence: towards 0 reverse KL, towards 1 forward KL"
    )

    def weighed(self, preferences: Mapping[str, float], roster: Roster) -> Weighed:
        """Policies at their preference, which β does not divide; rewards at α/β."""
        common = super().weighed(preferences, roster)
        policies = {policy.name: preferences[policy.name] for policy in roster.policies}
        return replace(common, drawn={**common.drawn, **policies})


class Mod:
    """Every policy at its preference; by reverse KL, rewards at α/β besides."""

    name = "mod"
    Parameters: type[method.Parameters] = ModParameters

    def names(self, roster: Roster) -> Sequence[str]:
        """Every policy, then every reward."""
        return [*(policy.name for policy in roster.policies), *(reward.name for reward in roster.rewards)]

    def needs(self, roster: Roster) -> str | None:
        """A policy."""
        return None if roster.policies else "policies"

    def defaults(self, parameters: ModParameters, roster: Roster) -> Mapping[str, float]:  # noqa: ARG002
        """All policies alike."""
        return {policy.name: 1 / len(roster.policies) for policy in roster.policies}

    def row(self, preferences: Mapping[str, float], parameters: ModParameters, roster: Roster) -> Row:
        """{policy: w} and the rewards; the power that belongs to the divergence.

        Raises:
            InvalidRequest: a policy's weight is negative, they do not add up to 1, some |α/β| > 100, or what goes with
                reverse KL only is asked of another divergence.
        """
        weights = {policy.name: preferences[policy.name] for policy in roster.policies}
        without_negative(weights)
        if abs(math.fsum(weights.values()) - 1) > TOLERANCE:
            raise InvalidRequest(
                f"preferences of the policies ({', '.join(weights)}) must add up to 1; "
                f"their sum is {math.fsum(weights.values()):g}.",
                param="preferences",
            )
        mix: dict[str, float] = {}
        for policy in roster.policies:
            mix[policy.member] = mix.get(policy.member, 0.0) + weights[policy.name]
        power = _power(parameters)
        if power:
            _check_alone(preferences, parameters, roster)
            return Row(mix, power=power)
        return Row(with_rewards(mix, preferences, parameters.beta, roster))


def _power(parameters: ModParameters) -> float:
    """0 for reverse KL, 1 for forward KL, a for the α-divergence."""
    if (parameters.divergence == "alpha") != (parameters.divergence_alpha is not None):
        raise InvalidRequest(
            "guidance.divergence_alpha goes with guidance.divergence = alpha, and has to be given there.",
            param="guidance.divergence_alpha",
        )
    if parameters.divergence_alpha is not None:
        return parameters.divergence_alpha
    return 1.0 if parameters.divergence == "forward_kl" else 0.0


def _check_alone(preferences: Mapping[str, float], parameters: ModParameters, roster: Roster) -> None:
    """Neither rewards nor ``max_kl`` have a meaning in a mean that is no weighted sum of log-probs."""
    for reward in roster.rewards:
        if preferences.get(reward.name):
            raise InvalidRequest(
                f"preferences.{reward.name}: rewards go with guidance.divergence = reverse_kl only.",
                param=f"preferences.{reward.name}",
            )
    if parameters.max_kl is not None:
        raise InvalidRequest(
            "guidance.max_kl goes with guidance.divergence = reverse_kl only.", param="guidance.max_kl"
        )

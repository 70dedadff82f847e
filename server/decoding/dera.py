"""DeRa (arXiv 2402.02992): log π = λ · log π_policy + (1 − λ) · log π_reference − log Z, which stands for the policy
retrained at KL strength β/λ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import ConfigDict, Field

from server.config import MAX_WEIGHT
from server.decoding import method
from server.decoding.roster import Roster
from server.decoding.row import Row
from server.decoding.weighed import Weighed
from server.decoding.weighing import chosen, with_rewards


class DeRaParameters(method.LinearParameters):
    """``guidance`` keys of DeRa."""

    model_config = ConfigDict(validate_by_name=False)

    strength: float = Field(
        1.0,
        alias="lambda",
        ge=-MAX_WEIGHT,
        le=MAX_WEIGHT,
        description="λ: 0 is the policy's reference, 1 the policy, beyond 1 more of what it was trained for",
    )
    policy: str | None = Field(None, description="which policy; may be left out where there is one")

    def weighed(self, preferences: Mapping[str, float], roster: Roster) -> Weighed:
        """The rewards at α/β and the policy at λ."""
        common = super().weighed(preferences, roster)
        policy = chosen(self.policy, [policy.name for policy in roster.policies], "guidance.policy")
        return replace(common, drawn={**common.drawn, policy: self.strength})


class DeRa:
    """A policy at λ, what it was trained from at 1 − λ, and rewards where a request names them."""

    name = "dera"
    Parameters: type[method.Parameters] = DeRaParameters

    def names(self, roster: Roster) -> Sequence[str]:
        """Every reward."""
        return [reward.name for reward in roster.rewards]

    def needs(self, roster: Roster) -> str | None:
        """A policy."""
        return None if roster.policies else "policies"

    def defaults(self, parameters: DeRaParameters, roster: Roster) -> Mapping[str, float]:  # noqa: ARG002
        """No reward."""
        return {}

    def row(self, preferences: Mapping[str, float], parameters: DeRaParameters, roster: Roster) -> Row:
        """{policy: λ, reference: 1 − λ} and the rewards.

        Raises:
            InvalidRequest: no such policy, none named among several, or some |α/β| > 100.
        """
        policies = {policy.name: policy for policy in roster.policies}
        policy = policies[chosen(parameters.policy, list(policies), "guidance.policy")]
        mix = {policy.member: parameters.strength}
        mix[policy.reference] = mix.get(policy.reference, 0.0) + 1.0 - parameters.strength
        used = {
            name: weight for name, weight in mix.items() if weight != 0
        }  # λ holds as long as the request runs
        return Row(with_rewards(used, preferences, parameters.beta, roster))

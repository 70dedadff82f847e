"""GenARM (arXiv 2410.08193): log π(v) = log π_base(v) + Σ_i (α_i/β) · log π_i(v) − log Z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from server.config import MAX_WEIGHT
from server.decoding import method
from server.decoding.roster import Roster
from server.decoding.row import BASE, Row
from server.decoding.weighing import with_rewards
from server.errors import InvalidRequest


class GenArmParameters(method.LinearParameters):
    """``guidance`` keys of GenARM."""

    normalize: bool = Field(False, description="divides the whole mix by 1 + Σ α/β")


class GenArm:
    """The base at weight 1 and every autoregressive reward model at α/β; of a pair, the model at α/β and its reference at
    −α/β.
    """

    name = "genarm"
    Parameters: type[method.Parameters] = GenArmParameters

    def names(self, roster: Roster) -> Sequence[str]:
        """Every reward."""
        return [reward.name for reward in roster.rewards]

    def needs(self, roster: Roster) -> str | None:  # noqa: ARG002
        """Nothing: without rewards it is the base."""
        return None

    def defaults(self, parameters: GenArmParameters, roster: Roster) -> Mapping[str, float]:  # noqa: ARG002
        """What the deployment declares."""
        return {reward.name: reward.default for reward in roster.rewards}

    def row(self, preferences: Mapping[str, float], parameters: GenArmParameters, roster: Roster) -> Row:
        """{"base": 1, name: α/β}, divided by 1 + Σ α/β when normalized; to that sum a pair adds nothing.

        Raises:
            InvalidRequest: some |α/β| > 100, or the normalizing sum is not positive or too small to divide
                by.
        """
        mix = with_rewards({BASE: 1.0}, preferences, parameters.beta, roster)
        if parameters.normalize:
            alone = [reward.member for reward in roster.rewards if reward.reference is None]
            mix = _divided(mix, 1.0 + sum(mix[name] for name in alone))
        return Row(mix)


def _divided(mix: Mapping[str, float], total: float) -> dict[str, float]:
    if total <= 0:
        raise InvalidRequest(
            f"guidance.normalize divides by 1 + Σ α/β, which must be positive; it is {total:g}.",
            param="guidance.normalize",
        )
    normalized = {name: weight / total for name, weight in mix.items()}
    if max(abs(weight) for weight in normalized.values()) > MAX_WEIGHT:
        raise InvalidRequest(
            f"guidance.normalize divides by 1 + Σ α/β = {total:g}, "
            f"which makes a weight larger than {MAX_WEIGHT:g}.",
            param="guidance.normalize",
        )
    return normalized

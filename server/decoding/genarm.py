"""GenARM (arXiv 2410.08193): log π(v) = log π_base(v) + Σ_i (α_i/β) · log π_i(v) − log Z."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from server.config import MAX_WEIGHT
from server.decoding import method
from server.errors import InvalidRequest


class GenArmParameters(method.Parameters):
    """``guidance`` keys of GenARM."""

    normalize: bool = Field(False, description="divides the whole mix by 1 + Σ α/β")


class GenArm:
    """The base at weight 1 and every autoregressive reward model at α/β."""

    name = "genarm"
    Parameters: type[method.Parameters] = GenArmParameters

    def mix(self, preferences: Mapping[str, float], parameters: GenArmParameters) -> dict[str, float]:
        """{"base": 1, name: α/β}, divided by 1 + Σ α/β when normalized.

        Raises:
            InvalidRequest: some |α/β| > 100, or the normalizing sum is not positive or too small to divide
                by.
        """
        rewards = {name: _over_beta(name, alpha, parameters.beta) for name, alpha in preferences.items()}
        mix = {"base": 1.0, **rewards}
        if not parameters.normalize:
            return mix
        total = 1.0 + sum(rewards.values())
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


def _over_beta(name: str, alpha: float, beta: float) -> float:
    # Compared before dividing: a tiny β would overflow.
    if abs(alpha) > MAX_WEIGHT * beta:
        raise InvalidRequest(
            f"preferences.{name} = {alpha:g} divided by guidance.beta = {beta:g} "
            f"must not be larger than {MAX_WEIGHT:g} in size.",
            param=f"preferences.{name}",
        )
    return alpha / beta

"""The chosen answer's negative log-likelihood beside a preference loss, which keeps a small model fluent."""

from torch import Tensor

from arm_models.losses.loss import LossSettings, ScoredPairs

SUPERVISED = frozenset({"sft_weight", "sft_reduction"})
"""The settings of a loss that can have this term."""


def with_supervised(losses: Tensor, pairs: ScoredPairs, settings: LossSettings) -> Tensor:
    """``losses`` ``[B]`` plus ``sft_weight`` times the NLL, per token or summed as ``sft_reduction`` says."""
    if not settings.sft_weight:
        return losses
    divisor: Tensor | int = pairs.chosen_length if settings.sft_reduction == "token" else 1
    return losses - settings.sft_weight * pairs.chosen / divisor

"""GenARM's loss (arXiv 2410.08193): Bradley-Terry on log-probs, without a reference model."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from arm_models.losses.loss import Loss, LossSettings, ScoredPairs
from arm_models.losses.supervised import SUPERVISED, with_supervised


def arm_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """GenARM's loss (arXiv 2410.08193): L = −E log σ(β_r·Σ log π_r(y^w|x) − β_r·Σ log π_r(y^l|x)).

    ``chosen``, ``rejected``: ``[B]``, what ``sequence_log_probs`` gives for y^w and y^l. There is no reference
    model. Returns a scalar.
    """
    return arm_losses(chosen, rejected, beta).mean()


def arm_losses(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """``arm_loss`` before the mean: one value per pair, ``[B]``."""
    return -logsigmoid(beta * (chosen - rejected))


def arm_objective(pairs: ScoredPairs, settings: LossSettings) -> Tensor:
    """``arm_losses``, plus ``sft_weight`` times the chosen answer's NLL where that is asked for: ``[B]``."""
    chosen, rejected = pairs.chosen, pairs.rejected
    if settings.length_normalized:
        chosen, rejected = chosen / pairs.chosen_length, rejected / pairs.rejected_length
    return with_supervised(arm_losses(chosen, rejected, settings.beta), pairs, settings)


ARM = Loss(
    name="arm",
    summary="an autoregressive reward model: the log-probability it gives a response is that response's reward",
    terms=arm_objective,
    settings=frozenset({"beta", "length_normalized"}) | SUPERVISED,
    serving="rewards:\n  - {{name: {name}, model: {model}}}",
)

"""The Bradley-Terry loss on every prefix of a response: what PARGS (arXiv 2406.07780) scores with."""

from torch import Tensor, arange
from torch.nn.functional import logsigmoid

from arm_models.losses.loss import Loss, LossSettings, ScoredPairs


def prefix_losses(chosen: Tensor, rejected: Tensor, lengths: Tensor, reduction: str = "sum") -> Tensor:
    """−Σ_i log σ(r(x, y^w_1:i) − r(x, y^l_1:i)), one value per pair.

    ``chosen``, ``rejected``: ``[B, A]``, the values behind each token. ``lengths``: ``[B]``, how many prefixes each pair
    has: those that both answers have. ``reduction``: "sum", as in the paper, or "mean" over a pair's prefixes.
    """
    counted = arange(chosen.shape[-1], device=chosen.device) < lengths.unsqueeze(-1)
    total = (-logsigmoid(chosen - rejected)).where(counted, 0.0).sum(-1)
    return total / lengths if reduction == "mean" else total


def prefix_objective(pairs: ScoredPairs, settings: LossSettings) -> Tensor:
    """``prefix_losses`` up to the shorter answer's end; raises ``ValueError`` where there are no values."""
    if pairs.chosen_values is None or pairs.rejected_values is None:
        raise ValueError("the pairs were not read by a scalar head")
    lengths = pairs.chosen_length.minimum(pairs.rejected_length)
    return prefix_losses(pairs.chosen_values, pairs.rejected_values, lengths, settings.prefix_reduction)


BT_PREFIX = Loss(
    name="bt-prefix",
    summary="a scalar reward model of every prefix of a response",
    terms=prefix_objective,
    settings=frozenset({"prefix_reduction"}),
    serving="scorers:\n  - {{name: {name}, model: {model}, trained_on: prefixes}}",
    model="scalar",
)

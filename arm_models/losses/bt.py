"""The Bradley-Terry loss of a scalar reward model on whole responses: what ARGS (arXiv 2402.01694) scores with."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from arm_models.losses.loss import Loss, LossSettings, ScoredPairs


def bt_losses(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ(r(x, y^w) − r(x, y^l)), one value per pair: ``[B]``, ``[B]`` → ``[B]``."""
    return -logsigmoid(chosen - rejected)


def bt_objective(pairs: ScoredPairs, settings: LossSettings) -> Tensor:  # noqa: ARG001  it has no settings
    """``bt_losses`` of the values behind the last tokens."""
    return bt_losses(pairs.chosen, pairs.rejected)


BT = Loss(
    name="bt",
    summary="a scalar reward model of whole responses",
    terms=bt_objective,
    settings=frozenset(),
    serving="scorers:\n  - {{name: {name}, model: {model}, trained_on: responses}}",
    model="scalar",
)

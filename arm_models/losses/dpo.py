"""Direct preference optimisation (arXiv 2305.18290): a policy and its log-ratio to the model it started from."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from arm_models.losses.loss import Loss, LossSettings, ScoredPairs
from arm_models.losses.supervised import SUPERVISED, with_supervised


def dpo_losses(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """−log σ(β[(log π(y^w) − log π_ref(y^w)) − (log π(y^l) − log π_ref(y^l))]), one value per pair.

    All ``[B]``, what ``sequence_log_probs`` gives for y^w and y^l under the policy and under its reference.
    """
    return -logsigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)))


def dpo_objective(pairs: ScoredPairs, settings: LossSettings) -> Tensor:
    """``dpo_losses``, plus ``sft_weight`` times the chosen answer's NLL where that is asked for: ``[B]``."""
    losses = dpo_losses(pairs.chosen, pairs.rejected, *reference_of(pairs), settings.beta)
    return with_supervised(losses, pairs, settings)


def implicit_margin(pairs: ScoredPairs) -> Tensor:
    """By how much the chosen answer's log-ratio to the reference is ahead, in nats, without β: ``[B]``."""
    chosen, rejected = reference_of(pairs)
    return (pairs.chosen - chosen) - (pairs.rejected - rejected)


def reference_of(pairs: ScoredPairs) -> tuple[Tensor, Tensor]:
    """The reference's log-probs of both answers; raises ``ValueError`` where the batch has none."""
    if pairs.reference_chosen is None or pairs.reference_rejected is None:
        raise ValueError("the pairs were not read by a reference")
    return pairs.reference_chosen, pairs.reference_rejected


DPO = Loss(
    name="dpo",
    summary="a policy aligned by DPO; its log-ratio to the start model is an implicit reward",
    terms=dpo_objective,
    settings=frozenset({"beta"}) | SUPERVISED,
    serving="rewards:  # the log-ratio to the start model as a reward\n"
    "  - {{name: {name}, model: {model}, reference: {start}}}\n"
    "policies:  # or the policy itself, for dera and mod\n"
    "  - {{name: {name}, model: {model}, reference: {start}}}",
    reference="fixed",
    margin=implicit_margin,
)

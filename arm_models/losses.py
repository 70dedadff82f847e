"""Preference losses as pure functions on tensors, and the table by which `--loss` finds them.

A preference pair is one prompt with two answers, y^w (chosen) and y^l (rejected). A loss sees the summed log-probs
of both. To add one: write its function, give it a row in ``LOSSES``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

IGNORE = -100
"""The label of a position that is not part of the answer: prompt and padding."""


def sequence_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_t log π(y_t | x, y_<t) of every row, in nats, SUMMED over its answer tokens (the EOS is one of them).

    ``logits``: ``[B, T, V]`` of any float dtype, row t predicts position t + 1 (the shift is made here).
    ``labels``: ``[B, T]`` int64, token ids, ``IGNORE`` (-100) where a position does not count.
    Returns ``[B]`` float32 (float64 for float64 logits). Raises ``ValueError`` when the shapes do not belong together.
    """
    if logits.dim() != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(f"labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}")
    targets = labels[:, 1:]
    counted = targets != IGNORE
    scores = logits[:, :-1]
    scores = scores if scores.dtype == torch.float64 else scores.float()
    picked = scores.gather(-1, targets.where(counted, 0).unsqueeze(-1)).squeeze(-1)
    per_token = picked - scores.logsumexp(-1)
    return per_token.where(counted, 0.0).sum(-1)


def answer_lengths(labels: Tensor) -> Tensor:
    """How many tokens of each row count: ``[B, T]`` → ``[B]`` int64, the same ones ``sequence_log_probs`` sums."""
    return (labels[:, 1:] != IGNORE).sum(-1)


def arm_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """GenARM's loss (arXiv 2410.08193): L = −E log σ(β_r·Σ log π_r(y^w|x) − β_r·Σ log π_r(y^l|x)).

    ``chosen``, ``rejected``: ``[B]``, what ``sequence_log_probs`` gives for y^w and y^l. No reference model. Scalar.
    """
    return -logsigmoid(beta * (chosen - rejected)).mean()


@dataclass(frozen=True)
class ScoredPairs:
    """What the model says of a batch of pairs: log-probs ``[B]`` in nats, summed, and answer lengths ``[B]`` in tokens."""

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor

    def per_token(self) -> "ScoredPairs":
        """The same pairs with mean instead of summed log-probs, for the length-normalised variant."""
        return ScoredPairs(
            self.chosen / self.chosen_length,
            self.rejected / self.rejected_length,
            self.chosen_length,
            self.rejected_length,
        )


@dataclass(frozen=True)
class LossSettings:
    """The numbers a loss depends on: ``beta`` (β_r), ``length_normalized``, and the NLL term on the chosen answer."""

    beta: float = 0.05
    length_normalized: bool = False
    sft_weight: float = 0.0
    sft_per_token: bool = True


def chosen_nll(pairs: ScoredPairs, *, per_token: bool) -> Tensor:
    """−E log π(y^w|x): per token of the batch (the usual language-model loss) or summed over each answer. Scalar."""
    total = -pairs.chosen.sum()
    return total / (pairs.chosen_length.sum() if per_token else len(pairs.chosen))


def arm_objective(pairs: ScoredPairs, settings: LossSettings) -> Tensor:
    """``arm_loss``, plus ``sft_weight`` x ``chosen_nll`` where that is asked for. Scalar."""
    scored = pairs.per_token() if settings.length_normalized else pairs
    loss = arm_loss(scored.chosen, scored.rejected, settings.beta)
    if settings.sft_weight:
        loss = loss + settings.sft_weight * chosen_nll(pairs, per_token=settings.sft_per_token)
    return loss


LOSSES: Mapping[str, Callable[[ScoredPairs, LossSettings], Tensor]] = {"arm": arm_objective}
"""What `--loss` can name."""

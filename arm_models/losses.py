"""Preference losses as pure functions on tensors, and the table by which `--loss` finds them.

A preference pair is one prompt with two answers, y^w (chosen) and y^l (rejected); a loss sees the summed log-probs of
both. To add one: write its function and give it a row in ``LOSSES``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

IGNORE = -100
"""The label of a position that is not part of the answer: prompt and padding."""


def sequence_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_t log π(y_t | x, y_<t) of every row, in nats, SUMMED over its answer tokens (the EOS is one of them).

    ``logits``: ``[B, T, V]`` of any float dtype; row t predicts position t + 1 (the shift is made here).
    ``labels``: ``[B, T]`` int64 token ids, ``IGNORE`` (-100) where a position does not count.
    Returns ``[B]`` float32 (float64 for float64 logits). Raises ``ValueError`` when the shapes do not fit.
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
    """How many tokens ``sequence_log_probs`` sums in each row: ``[B, T]`` → ``[B]`` int64."""
    return (labels[:, 1:] != IGNORE).sum(-1)


def arm_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """GenARM's loss (arXiv 2410.08193): L = −E log σ(β_r·Σ log π_r(y^w|x) − β_r·Σ log π_r(y^l|x)).

    ``chosen``, ``rejected``: ``[B]``, what ``sequence_log_probs`` gives for y^w and y^l. There is no reference
    model. Returns a scalar.
    """
    return arm_losses(chosen, rejected, beta).mean()


def arm_losses(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """``arm_loss`` before the mean: one value per pair, ``[B]``."""
    return -logsigmoid(beta * (chosen - rejected))


@dataclass(frozen=True)
class ScoredPairs:
    """What the model says of a batch of pairs.

    chosen, rejected: ``[B]`` summed log-probs in nats. chosen_length, rejected_length: ``[B]`` tokens, EOS included.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_length: Tensor
    rejected_length: Tensor


@dataclass(frozen=True)
class LossSettings:
    """The numbers a loss depends on.

    beta: β_r. length_normalized: mean instead of summed log-probs. sft_weight: weight of the chosen answer's NLL, which
    is per token of the answer (sft_reduction "token") or summed over it ("sequence").
    """

    beta: float = 0.05
    length_normalized: bool = False
    sft_weight: float = 0.0
    sft_reduction: str = "token"


def arm_objective(pairs: ScoredPairs, settings: LossSettings) -> Tensor:
    """``arm_losses``, plus ``sft_weight`` times the chosen answer's NLL where that is asked for: ``[B]``."""
    chosen, rejected = pairs.chosen, pairs.rejected
    if settings.length_normalized:
        chosen, rejected = chosen / pairs.chosen_length, rejected / pairs.rejected_length
    losses = arm_losses(chosen, rejected, settings.beta)
    if settings.sft_weight:
        divisor: Tensor | int = pairs.chosen_length if settings.sft_reduction == "token" else 1
        losses = losses - settings.sft_weight * pairs.chosen / divisor
    return losses


LOSSES: Mapping[str, Callable[[ScoredPairs, LossSettings], Tensor]] = MappingProxyType({"arm": arm_objective})
"""What `--loss` can name: a function from scored pairs to one loss per pair, ``[B]``."""

"""The mix: every row of the batch adds up its members' logits with its own weights.

``log π(v) = log π_base(v) + Σ_i (α_i/β) log π_i(v) − log Z`` (GenARM, arXiv 2410.08193, eq. 8). A log-softmax shifts a row by a
constant only, which log Z absorbs: the weighted sum of raw logits is the same distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from server.engine.transfer import upload


@dataclass(frozen=True, slots=True)
class Contribution:
    """One member's part: ``logits`` [n, vocab] float32 for the batch rows ``rows`` [n], each times its weight."""

    logits: torch.Tensor
    rows: Sequence[int]
    weights: Sequence[float]


def mix_logits(contributions: Sequence[Contribution], rows: int) -> torch.Tensor:
    """``z[r] = Σ_m w_m[r] · z_m[r]`` → [rows, vocab] float32.

    A row that only one member contributes to with weight 1 is that member's logits bit for bit. May reuse the memory of the
    first contribution. Every row needs at least one contribution.
    """
    first, *rest = contributions
    if list(first.rows) == list(range(rows)):
        mixed = first.logits
        if any(weight != 1.0 for weight in first.weights):
            mixed = mixed * _column(first.weights, mixed.device)
    else:
        mixed = first.logits.new_zeros(rows, first.logits.shape[1])
        rest = list(contributions)
    for part in rest:
        weighted = part.logits * _column(part.weights, part.logits.device)
        index = upload(list(part.rows), mixed.device, torch.long)
        mixed = mixed.index_add(0, index, weighted.to(mixed.device))
    return mixed


def _column(weights: Sequence[float], device: torch.device) -> torch.Tensor:
    return upload(list(weights), device, torch.float32)[:, None]

"""Averages of tensors, in float32, or float64 where that is what they are."""

from collections.abc import Sequence

import torch
from torch import Tensor


def average(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_i θ_i of tensors of one shape, in the first one's dtype. Tensors of integers have to be equal: ValueError."""
    first = tensors[0]
    if not first.is_floating_point():
        if any(not torch.equal(first, other) for other in tensors[1:]):
            raise ValueError("integers differ and have no average")
        return first
    precise = torch.promote_types(first.dtype, torch.float32)
    total = torch.zeros_like(first, dtype=precise)
    for tensor, weight in zip(tensors, weights, strict=True):
        total += weight * tensor.to(precise)
    return total.to(first.dtype)


def stacked_updates(
    downs: Sequence[Tensor], ups: Sequence[Tensor], scales: Sequence[float], weights: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Factors (A, B) for which B·A = Σ w_i s_i B_i A_i exactly: the ranks stand one behind the other.

    ``downs``: A_i, ``[r_i, in]``. ``ups``: B_i, ``[out, r_i]``. Returns ``[Σ r_i, in]`` and ``[out, Σ r_i]`` in the
    first one's dtype; w_i and s_i are in B.
    """
    down, up = downs[0], ups[0]
    scaled = [
        (weight * scale * one.float()).to(up.dtype)
        for one, scale, weight in zip(ups, scales, weights, strict=True)
    ]
    return torch.cat([one.to(down.dtype) for one in downs]), torch.cat(scaled, dim=1)

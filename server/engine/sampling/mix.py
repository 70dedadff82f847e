"""The mix: every row of the batch adds up its members' logits with its own weights.

``log π(v) = log π_base(v) + Σ_i (α_i/β) log π_i(v) − log Z`` (GenARM, arXiv 2410.08193, eq. 8). A log-softmax shifts a row by a
constant only, which log Z absorbs: the weighted sum of raw logits is the same distribution. Rows may instead be the members'
weighted power mean, which is what MOD (arXiv 2406.18853) makes of divergences other than the reverse KL.
"""

import math
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


def mix_logits(
    contributions: Sequence[Contribution], rows: int, powers: Sequence[float] = ()
) -> torch.Tensor:
    """``z[r] = Σ_m w_m[r] · z_m[r]`` → [rows, vocab] float32; rows with a power other than 0: :func:`power_mean`.

    A row that only one member contributes to with weight 1 is that member's logits bit for bit, unless it has a power. May reuse
    the memory of the first contribution. Every row needs at least one contribution whose weight is not 0.
    """
    parts = [part for part in map(_weighted, contributions) if part.rows]
    if not any(powers):
        return _weighted_sum(parts, rows)
    raised = [row for row, power in enumerate(powers) if power]
    meant = power_mean([_restricted(part, raised) for part in parts], [powers[row] for row in raised])
    if len(raised) == rows:
        return meant
    summed = _weighted_sum(parts, rows)
    return summed.index_copy(0, upload(raised, summed.device, torch.long), meant.to(summed.device))


def power_mean(contributions: Sequence[Contribution], powers: Sequence[float]) -> torch.Tensor:
    """``log π[r] = −(1/a) · logsumexp_m(log w_m[r] − a · log π_m[r]) − log Z`` with a = ``powers[r]`` → [rows, vocab] float32.

    a = 1 is the harmonic mean, MOD under the forward KL; a in (0, 1) is MOD under the α-divergence; a → 0 tends to the geometric
    mean, which is the weighted sum of logits. Weights must be positive, powers not 0.
    """
    rows = len(powers)
    total = contributions[0].logits.new_full((rows, contributions[0].logits.shape[1]), -torch.inf)
    raised = upload(list(powers), total.device, torch.float32)[:, None]
    for part in contributions:
        index = upload(list(part.rows), total.device, torch.long)
        shifts = _column([math.log(weight) for weight in part.weights], total.device)
        terms = shifts - raised[index] * part.logits.to(total.device).log_softmax(-1)
        total = total.index_copy(0, index, torch.logaddexp(total[index], terms))
    return (total / -raised).log_softmax(-1)


def _weighted_sum(contributions: Sequence[Contribution], rows: int) -> torch.Tensor:
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


def _weighted(part: Contribution) -> Contribution:
    """The rows whose weight is not 0: 0 times a logit need not be 0, and would not leave a row's bits alone."""
    if all(part.weights):
        return part
    return _chosen(part, [place for place, weight in enumerate(part.weights) if weight])


def _restricted(part: Contribution, rows: Sequence[int]) -> Contribution:
    """What ``part`` says about the batch rows ``rows``, which are numbered anew."""
    number = {row: place for place, row in enumerate(rows)}
    own = _chosen(part, [place for place, row in enumerate(part.rows) if row in number])
    return Contribution(own.logits, [number[row] for row in own.rows], own.weights)


def _chosen(part: Contribution, places: Sequence[int]) -> Contribution:
    logits = part.logits.index_select(0, upload(list(places), part.logits.device, torch.long))
    return Contribution(
        logits, [part.rows[place] for place in places], [part.weights[place] for place in places]
    )


def _column(weights: Sequence[float], device: torch.device) -> torch.Tensor:
    return upload(list(weights), device, torch.float32)[:, None]

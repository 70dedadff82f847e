"""Means of per-prompt scores with percentile bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean of ``values`` (one per prompt) and its 95 % percentile interval over resampled prompts.

    Raises ``ValueError`` for no values at all.
    """
    if not values:
        raise ValueError("no values to take the mean of")
    observed = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(observed), size=(resamples, len(observed)))
    means = observed[draws].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(observed.mean()), float(low), float(high))


def paired_difference(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Interval:
    """The mean of ``after − before`` over the same prompts; raises ``ValueError`` when the lengths differ."""
    return bootstrap([b - a for a, b in zip(before, after, strict=True)], seed)

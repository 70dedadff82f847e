"""Bootstrap over prompts for anything that is computed from several rows of per-prompt values at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from arm_models.evaluation.bootstrap import Interval

Values = NDArray[np.float64]
RESAMPLES = 1000


def resampled(
    statistic: Callable[[Values], float], values: Values, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """``statistic`` of ``values`` [..., prompts] float64 and its 95 % percentile interval over resampled prompts.

    All rows are resampled alike, so what a prompt does to all of them cancels. The interval's ``mean`` is the statistic of the
    values as they are. Resamples for which it is nan are left out. Raises ``ValueError`` for no prompts.
    """
    count = values.shape[-1]
    if not count:
        raise ValueError("no prompts to resample")
    rng = np.random.default_rng(seed)
    found = np.array([statistic(values[..., rng.integers(0, count, count)]) for _ in range(resamples)])
    known = found[~np.isnan(found)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (np.nan, np.nan)
    return Interval(statistic(values), float(low), float(high))


def ratio_interval(numerators: Values, denominators: Values, seed: int = 0) -> Interval:
    """Σ numerators / Σ denominators over prompts ([prompts] each) and its 95 % interval over resampled prompts.

    A mean over the prompts that a score applies to is one: its values over 1 where it applies and 0 where not. Raises
    ``ValueError`` for no prompts, and where the denominators are 0 altogether.
    """
    count = len(numerators)
    if not count or not denominators.sum() > 0:
        raise ValueError("no prompts to resample")
    draws = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    totals = denominators[draws].sum(1)
    found = np.divide(numerators[draws].sum(1), totals, out=np.full(RESAMPLES, np.nan), where=totals > 0)
    low, high = np.nanquantile(found, (0.025, 0.975))
    return Interval(float(numerators.sum() / denominators.sum()), float(low), float(high))


def mean_interval(values: Values, seed: int = 0) -> Interval:
    """The mean of ``values`` [prompts] over those that are not nan, and its 95 % interval; raises ``ValueError`` for none."""
    applies = ~np.isnan(values)
    return ratio_interval(np.where(applies, values, 0.0), applies.astype(np.float64), seed)


def means(values: Values) -> Values:
    """Means over the last axis [..., prompts] → [...]; nan marks a prompt that a score does not apply to.

    nan where a score applies to none of the prompts.
    """
    applies = ~np.isnan(values)
    counts = applies.sum(-1)
    sums = np.where(applies, values, 0.0).sum(-1)
    result: Values = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return result

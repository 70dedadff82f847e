"""Methods at equal distance from the base: each one's rewards on straight lines between its settings, in the order of KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from arm_models.evaluation.bootstrap import Interval
from arm_models.evaluation.measures.curve import at_kl, mean_difference
from arm_models.evaluation.resampling import Values, means, resampled
from arm_models.evaluation.summary import Row

SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class EqualKl:
    """``rewards``: by method, the mean score at each of ``kl`` (nats per token)."""

    score: str
    kl: tuple[float, ...]
    rewards: Mapping[str, tuple[Interval, ...]]


def at_equal_kl(curves: Mapping[str, Sequence[Row]], score: str, base: Row) -> EqualKl | None:
    """The score of every method at quarters of the KL that all of them reach, with intervals over prompts.

    ``base``: the row at KL 0, from which every curve begins. None where some row has no KL, or one method goes nowhere.
    """
    if any(row.kl is None for rows in curves.values() for row in rows):
        return None
    whole = {name: curve_values([base, *rows], score) for name, rows in curves.items()}
    reach = min(float(_kl(values).max()) for values in whole.values())
    if not reach > 0:
        return None
    wanted = reach * np.array(SHARES)
    rewards = {name: tuple(_interval(values, float(at)) for at in wanted) for name, values in whole.items()}
    return EqualKl(score, tuple(float(at) for at in wanted), rewards)


def curve_values(rows: Sequence[Row], score: str, *, first: bool = True) -> Values:
    """[3, settings, prompts]: Σ KL, Σ tokens and the mean score of each prompt's answers.

    ``first``: the first row is the base, whose KL is 0 whatever rounding says.
    """
    nats = [[sum(one.kl or 0.0 for one in samples) for samples in row.answers] for row in rows]
    tokens = [[float(sum(one.tokens for one in samples)) for samples in row.answers] for row in rows]
    if first:
        nats[0] = [0.0] * len(nats[0])
    return np.array([nats, tokens, [row.scores[score] for row in rows]], dtype=np.float64)


def advantage(ours: Values, others: Values, seed: int = 0) -> Interval:
    """The mean of our score − theirs along the KL both reach (``curve_values`` of either), over resampled prompts.

    Both must be of the same prompts.
    """
    split = ours.shape[1]

    def difference(both: Values) -> float:
        return mean_difference(_curve(both[:, :split]), _curve(both[:, split:]))

    return resampled(difference, np.concatenate([ours, others], axis=1), seed)


def _curve(values: Values) -> tuple[list[float], list[float]]:
    return list(_kl(values)), list(means(values[2]))


def _kl(values: Values) -> Values:
    result: Values = values[0].sum(-1) / np.maximum(1.0, values[1].sum(-1))
    return result


def _interval(values: Values, at: float) -> Interval:
    def reward(sample: Values) -> float:
        kl, rewards = _curve(sample)
        # A resampled curve may end a little earlier: its end is then the best it can say.
        return float(at_kl(kl, rewards, np.array([min(at, max(kl))]))[0])

    return resampled(reward, values)

"""A sweep's answers and scores, setting by setting: what the tables, pictures and claims are made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from arm_models.evaluation.answers import Answer
from arm_models.evaluation.bootstrap import Interval
from arm_models.evaluation.measures.diversity import distinct
from arm_models.evaluation.measures.hypervolume import hypervolume
from arm_models.evaluation.measures.inner_product import mean_inner_product
from arm_models.evaluation.measures.winning import Record, record
from arm_models.evaluation.resampling import Values, mean_interval, means, ratio_interval, resampled
from arm_models.evaluation.settings import Setting

NGRAMS = (1, 2, 3)


@dataclass(frozen=True)
class Row:
    """One setting.

    Attributes:
        answers: by prompt, its samples.
        scores: by score, a value per prompt (its samples' mean); nan where the score does not apply.
        verdicts: points against the reference setting, by prompt; empty where nobody judged.
    """

    setting: Setting
    answers: Sequence[Sequence[Answer]]
    scores: Mapping[str, Sequence[float]]
    verdicts: Sequence[float] = ()

    @cached_property
    def intervals(self) -> Mapping[str, Interval]:
        """Mean of every score that applies anywhere, with its 95 % interval over prompts."""
        found = {}
        for name, values in self.scores.items():
            array = np.array(values, dtype=np.float64)
            if not np.isnan(array).all():
                found[name] = mean_interval(array)
        return found

    @cached_property
    def kl(self) -> Interval | None:
        """Σ KL over Σ tokens of all answers, nats per token; None where some answer has none."""
        nats, tokens = self._totals
        if np.isnan(nats).any():
            return None
        return ratio_interval(nats, np.maximum(tokens, 1e-9))

    @cached_property
    def tokens(self) -> int:
        """Of all answers."""
        return int(self._totals[1].sum())

    @cached_property
    def distinct(self) -> tuple[float, ...]:
        """distinct-1, -2 and -3 of all answers."""
        texts = [answer.text for samples in self.answers for answer in samples]
        return tuple(distinct(texts, length) for length in NGRAMS)

    @property
    def record(self) -> Record | None:
        """Wins, ties and losses against the reference setting."""
        return record(self.verdicts) if self.verdicts else None

    @property
    def win_rate(self) -> Interval | None:
        """Wins + ½ ties, with its interval over prompts."""
        if not self.verdicts:
            return None
        return mean_interval(np.array(self.verdicts, dtype=np.float64))

    @cached_property
    def _totals(self) -> tuple[Values, Values]:
        nats = [[math.nan if one.kl is None else one.kl for one in samples] for samples in self.answers]
        tokens = [[one.tokens for one in samples] for samples in self.answers]
        return np.array(nats, dtype=np.float64).sum(1), np.array(tokens, dtype=np.float64).sum(1)


@dataclass(frozen=True)
class Frontier:
    """One method's settings over the objectives: hypervolume above ``reference``, and MIP where preferences say where to go."""

    method: str
    objectives: tuple[str, ...]
    reference: tuple[float, ...]
    volume: Interval
    mip: float | None
    rows: tuple[Row, ...] = field(repr=False)


def frontier(
    method: str, rows: Sequence[Row], objectives: Sequence[str], reference: Sequence[float]
) -> Frontier:
    """The frontier of ``rows`` (one method's settings). Raises ``ValueError`` for other than 2 or 3 objectives.

    MIP is over the settings whose preferences name objectives alone and have a sum; None where there is no such setting.
    """
    values = np.array([[row.scores[name] for name in objectives] for row in rows], dtype=np.float64)
    volume = resampled(lambda sample: hypervolume(means(sample), reference), values)
    return Frontier(method, tuple(objectives), tuple(reference), volume, _mip(rows, objectives), tuple(rows))


def by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each method, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.setting.method, []).append(row)
    return found


def _mip(rows: Sequence[Row], objectives: Sequence[str]) -> float | None:
    preferences, rewards = [], []
    for row in rows:
        given = row.setting.preferences or {}
        wanted = [given.get(name, 0.0) for name in objectives]
        if set(given) <= set(objectives) and min(wanted, default=-1.0) >= 0 and sum(wanted) > 0:
            preferences.append(wanted)
            rewards.append([float(means(np.array(row.scores[name]))) for name in objectives])
    return mean_inner_product(preferences, rewards) if preferences else None

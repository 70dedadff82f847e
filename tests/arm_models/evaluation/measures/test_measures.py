"""Small measures against their formula, written out."""

from random import Random

import numpy as np
import pytest

from arm_models.evaluation.bootstrap import bootstrap
from arm_models.evaluation.measures.curve import at_kl, mean_difference
from arm_models.evaluation.measures.diversity import distinct
from arm_models.evaluation.measures.inner_product import mean_inner_product
from arm_models.evaluation.measures.winning import Record, record, swapped
from arm_models.evaluation.resampling import mean_interval, means, ratio_interval, resampled


def test_mip_is_the_mean_of_the_inner_products_at_a_sum_of_one() -> None:
    preferences, rewards = [(1.0, 0.0), (1.0, 3.0)], [(0.4, 0.9), (0.2, 0.8)]
    assert mean_inner_product(preferences, rewards) == pytest.approx((0.4 + (0.2 + 3 * 0.8) / 4) / 2)


@pytest.mark.parametrize(
    ("preferences", "rewards"),
    [
        ([], []),
        ([(1.0,)], [(1.0, 2.0)]),
        ([(0.0, 0.0)], [(1.0, 1.0)]),
        ([(-1.0, 2.0)], [(1.0, 1.0)]),
        ([(1.0,)], []),
    ],
)
def test_mip_needs_preferences_that_can_be_scaled(
    preferences: list[tuple[float, ...]], rewards: list[tuple[float, ...]]
) -> None:
    with pytest.raises(ValueError, match="preference vector"):
        mean_inner_product(preferences, rewards)


def test_distinct_counts_ngrams_within_texts() -> None:
    texts = ["a b a b", "b a", ""]
    assert distinct(texts, 1) == pytest.approx(2 / 6)
    assert distinct(texts, 2) == pytest.approx(2 / 4)  # a b, b a, a b | b a
    assert distinct(texts, 3) == pytest.approx(2 / 2)
    assert distinct(texts, 5) == 0.0
    with pytest.raises(ValueError, match="at least one word"):
        distinct(texts, 0)


def test_rewards_at_a_kl_lie_on_straight_lines_between_settings() -> None:
    kl, rewards = [0.4, 0.0, 0.1], [0.5, 0.2, 0.6]
    assert at_kl(kl, rewards, np.array([0.0, 0.05, 0.1, 0.25, 0.4])) == pytest.approx(
        [0.2, 0.4, 0.6, 0.55, 0.5]
    )
    with pytest.raises(ValueError, match=r"span KL 0 to 0\.4"):
        at_kl(kl, rewards, np.array([0.5]))


def test_curves_are_compared_where_both_have_settings() -> None:
    ours, others = ([0.0, 1.0], [0.0, 1.0]), ([0.0, 0.5, 9.0], [0.0, 0.25, -5.0])
    wanted = np.linspace(0.0, 1.0, 41)
    theirs = np.where(wanted <= 0.5, wanted / 2, 0.25 - 5.25 * (wanted - 0.5) / 8.5)
    assert mean_difference(ours, others) == pytest.approx((wanted - theirs).mean())
    assert mean_difference(ours, ours) == 0.0
    with pytest.raises(ValueError, match="no common KL"):
        mean_difference(ours, ([2.0, 3.0], [0.0, 0.0]))


def test_a_tie_is_half_a_win() -> None:
    assert record([1.0, 0.5, 0.0, 0.5]) == Record(wins=1, ties=2, losses=1)
    assert record([1.0, 0.5]).rate == 0.75
    for points in ([], [0.7]):
        with pytest.raises(ValueError, match="verdicts"):
            record(points)


def test_sides_that_disagree_when_swapped_are_a_tie() -> None:
    assert [swapped(1.0, 1.0), swapped(0.0, 0.0), swapped(1.0, 0.0)] == [1.0, 0.0, 0.5]
    assert [swapped(None, 1.0), swapped(None, None), swapped(0.5, 1.0)] == [0.5, 0.5, 0.5]


def test_a_resampled_mean_has_the_interval_of_the_bootstrap() -> None:
    rng = Random(0)
    values = [rng.gauss(1.0, 1.0) for _ in range(80)]
    joint = resampled(lambda sample: float(sample.mean()), np.array(values), resamples=3000)
    alone = bootstrap(values)
    assert joint.mean == pytest.approx(alone.mean)
    assert (joint.low, joint.high) == pytest.approx((alone.low, alone.high), abs=0.02)


def test_rows_are_resampled_alike_so_what_they_share_cancels() -> None:
    shared = np.random.default_rng(1).normal(0.0, 10.0, 50)
    rows = np.stack([shared, shared + 1.0])
    change = resampled(lambda sample: float(means(sample)[1] - means(sample)[0]), rows, resamples=200)
    assert (change.low, change.mean, change.high) == pytest.approx((1.0, 1.0, 1.0))


def test_means_leave_out_prompts_that_a_score_does_not_apply_to() -> None:
    assert means(np.array([[1.0, np.nan, 3.0], [np.nan] * 3])).tolist() == pytest.approx(
        [2.0, np.nan], nan_ok=True
    )
    with pytest.raises(ValueError, match="no prompts"):
        resampled(lambda _: 0.0, np.zeros((2, 0)))


def test_a_mean_and_a_ratio_have_the_intervals_of_their_statistic() -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random(200) < 0.4, np.nan, rng.normal(1.0, 1.0, 200))
    quick, slow = mean_interval(values), resampled(lambda sample: float(means(sample)), values)
    assert (quick.mean, quick.low, quick.high) == pytest.approx((slow.mean, slow.low, slow.high), abs=0.03)
    sums, counts = rng.random(100) * 3, rng.integers(1, 9, 100).astype(float)
    ratio = ratio_interval(sums, counts)
    expected = resampled(lambda pair: float(pair[0].sum() / pair[1].sum()), np.stack([sums, counts]))
    assert (ratio.mean, ratio.low, ratio.high) == pytest.approx(
        (expected.mean, expected.low, expected.high), abs=0.02
    )
    for nothing in (np.array([]), np.array([np.nan])):
        with pytest.raises(ValueError, match="no prompts"):
            mean_interval(nothing)

"""PARM weighs each objective's ARM loss by a preference vector that seed and step alone decide."""

import numpy as np
import pytest
import torch

from arm_models.losses import LOSSES, parm_loss, sampled_preference


def test_the_loss_is_the_weighted_sum_of_arm_losses() -> None:
    assert LOSSES["parm"].terms is LOSSES["arm"].terms
    loss = parm_loss([torch.tensor(0.7), torch.tensor(2.0), torch.tensor(0.1)], (0.5, 0.2, 0.3))
    assert float(loss) == pytest.approx(0.5 * 0.7 + 0.2 * 2.0 + 0.3 * 0.1, abs=1e-6)


def test_preference_vectors_follow_from_seed_and_step() -> None:
    assert sampled_preference(1, 7, 3) == sampled_preference(1, 7, 3)
    assert len({sampled_preference(seed, step, 3) for seed in (1, 2) for step in (7, 8)}) == 4


def test_preference_vectors_are_dirichlet_of_one_half() -> None:
    """Of two objectives p_1 is Beta(½, ½): mean ½, variance 1/8, P(p_1 < x) = 2/π · asin √x."""
    drawn = np.array([sampled_preference(3, step, 2) for step in range(4000)])
    assert drawn.min() >= 0 and np.allclose(drawn.sum(1), 1)
    assert drawn[:, 0].mean() == pytest.approx(0.5, abs=0.02)
    assert drawn[:, 0].var() == pytest.approx(0.125, abs=0.01)
    assert (drawn[:, 0] < 0.1).mean() == pytest.approx(2 / np.pi * np.arcsin(np.sqrt(0.1)), abs=0.02)

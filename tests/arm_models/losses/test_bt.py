"""Bradley-Terry on scalars is its formula on the values behind the last tokens."""

import math

import pytest
import torch

from arm_models.losses import LOSSES, LossSettings, ScoredPairs


def test_the_loss_is_the_formula() -> None:
    lengths = torch.tensor([2, 2])
    pairs = ScoredPairs(torch.tensor([1.5, -0.5]), torch.tensor([0.25, 2.0]), lengths, lengths)
    expected = [math.log1p(math.exp(-1.25)), math.log1p(math.exp(2.5))]
    assert LOSSES["bt"].terms(pairs, LossSettings()).tolist() == pytest.approx(expected, abs=1e-6)
    assert LOSSES["bt"].margin(pairs).tolist() == [1.25, -2.5]

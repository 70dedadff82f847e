"""PARGS' loss compares prefixes of one length, as many as both answers have."""

import math

import pytest
import torch

from arm_models.losses import LOSSES, LossSettings, ScoredPairs


@pytest.fixture
def pairs() -> ScoredPairs:
    """Answers of 4 and 2, and of 3 and 3 tokens; values behind an answer's end must not count."""
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator)
    lengths = (torch.tensor([4, 3]), torch.tensor([2, 3]))
    return ScoredPairs(
        chosen[:, -1], rejected[:, -1], *lengths, chosen_values=chosen, rejected_values=rejected
    )


def by_hand(pairs: ScoredPairs) -> list[list[float]]:
    """−log σ(r(y^w_1:i) − r(y^l_1:i)) of every i that both answers of a pair have."""
    assert pairs.chosen_values is not None and pairs.rejected_values is not None
    better, worse = pairs.chosen_values.tolist(), pairs.rejected_values.tolist()
    return [
        [math.log1p(math.exp(worse[pair][i] - better[pair][i])) for i in range(prefixes)]
        for pair, prefixes in enumerate((2, 3))
    ]


def test_the_loss_is_the_papers_sum(pairs: ScoredPairs) -> None:
    expected = [sum(terms) for terms in by_hand(pairs)]
    assert LOSSES["bt-prefix"].terms(pairs, LossSettings()).tolist() == pytest.approx(expected, abs=1e-6)


def test_prefixes_can_be_averaged(pairs: ScoredPairs) -> None:
    expected = [sum(terms) / len(terms) for terms in by_hand(pairs)]
    terms = LOSSES["bt-prefix"].terms(pairs, LossSettings(prefix_reduction="mean"))
    assert terms.tolist() == pytest.approx(expected, abs=1e-6)


def test_whole_answers_are_ranked(pairs: ScoredPairs) -> None:
    assert torch.equal(LOSSES["bt-prefix"].margin(pairs), pairs.chosen - pairs.rejected)


def test_pairs_without_values_are_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="not read by a scalar head"):
        LOSSES["bt-prefix"].terms(ScoredPairs(one, one, one, one), LossSettings())

"""The mix is the weighted sum, row by row, and a lone member passes through untouched."""

import torch

from server.engine.sampling.mix import Contribution, mix_logits


def test_every_row_has_its_own_weighted_sum() -> None:
    torch.manual_seed(0)
    base, helpful, harmless = torch.randn(3, 11), torch.randn(2, 11), torch.randn(1, 11)
    mixed = mix_logits(
        [
            Contribution(base, [0, 1, 2], [1.0, 1.0, 0.5]),
            Contribution(helpful, [2, 0], [0.3, -2.0]),
            Contribution(harmless, [2], [4.0]),
        ],
        3,
    )
    expected = torch.stack(
        [base[0] - 2 * helpful[1], base[1], 0.5 * base[2] + 0.3 * helpful[0] + 4 * harmless[0]]
    )
    torch.testing.assert_close(mixed, expected)


def test_rows_need_not_have_the_base() -> None:
    first, second = torch.randn(1, 4), torch.randn(2, 4)
    mixed = mix_logits([Contribution(first, [1], [1.0]), Contribution(second, [2, 0], [1.0, 2.0])], 3)
    torch.testing.assert_close(mixed, torch.stack([2 * second[1], first[0], second[0]]))


def test_a_lone_member_with_weight_one_is_bit_equal() -> None:
    base, other = torch.randn(3, 1000), torch.randn(1, 1000)
    before = base.clone()
    mixed = mix_logits([Contribution(base, [0, 1, 2], [1.0] * 3), Contribution(other, [1], [0.7])], 3)
    assert torch.equal(mixed[0], before[0])
    assert torch.equal(mixed[2], before[2])
    assert not torch.equal(mixed[1], before[1])


def test_raw_logits_and_log_probs_give_the_same_distribution() -> None:
    base, reward = torch.randn(2, 50) * 5, torch.randn(2, 50) * 5 + 100
    raw = mix_logits([Contribution(base, [0, 1], [1.0, 1.0]), Contribution(reward, [0, 1], [2.5, -1.0])], 2)
    weights = torch.tensor([[2.5], [-1.0]], dtype=torch.double)
    exact = base.double().log_softmax(-1) + weights * reward.double().log_softmax(-1)
    torch.testing.assert_close(raw.double().log_softmax(-1), exact.log_softmax(-1), atol=1e-4, rtol=0)

"""The mix is the weighted sum, row by row, and a lone member passes through untouched."""

from collections.abc import Mapping

import pytest
import torch

from server.engine import Engine, SamplingParams, SequenceRequest
from server.engine.sampling.mix import Contribution, mix_logits
from tests.server.engine.conftest import MakeEngine


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


def test_a_row_of_weight_zero_leaves_no_trace() -> None:
    base, other = torch.randn(2, 9), torch.randn(2, 9)
    base[0, 3] = torch.inf
    mixed = mix_logits([Contribution(base, [0, 1], [0.0, 1.0]), Contribution(other, [0, 1], [1.0, 0.5])], 2)
    assert torch.equal(mixed[0], other[0])
    torch.testing.assert_close(mixed[1], base[1] + 0.5 * other[1])
    alone = mix_logits([Contribution(base, [0, 1], [0.0, 0.0]), Contribution(other, [0, 1], [1.0, 1.0])], 2)
    assert torch.equal(alone, other)


def power_reference(logits: Mapping[float, torch.Tensor], power: float) -> torch.Tensor:
    """(Σ_m w_m π_m^-a)^(-1/a), normalised, as log-probs in float64; ``logits`` by weight."""
    total = sum(weight * one.double().softmax(-1) ** -power for weight, one in logits.items())
    assert isinstance(total, torch.Tensor)
    return (total ** (-1 / power) / (total ** (-1 / power)).sum(-1, keepdim=True)).log()


@pytest.mark.parametrize("power", [1.0, 0.5, 0.05, -1.0, 2.5])
def test_rows_with_a_power_are_power_means_beside_rows_that_are_sums(power: float) -> None:
    torch.manual_seed(1)
    first, second = torch.randn(2, 3, 40).mul(6).unbind()
    mixed = mix_logits(
        [
            Contribution(first, [0, 1, 2], [0.2, 1.0, 0.3]),
            Contribution(second, [2, 0, 1], [0.7, 0.8, -2.0]),
        ],
        3,
        [power, 0.0, 1.0],
    )
    torch.testing.assert_close(
        mixed[0].double(), power_reference({0.2: first[0], 0.8: second[1]}, power), atol=1e-4, rtol=1e-5
    )
    assert torch.equal(mixed[1], first[1] + -2.0 * second[2])
    torch.testing.assert_close(
        mixed[2].double(), power_reference({0.3: first[2], 0.7: second[0]}, 1.0), atol=1e-4, rtol=1e-5
    )


def test_the_power_mean_of_one_model_is_that_model_and_what_any_rules_out_stays_out() -> None:
    logits, other = torch.randn(2, 30) * 4, torch.randn(2, 30) * 4
    (alone,) = mix_logits([Contribution(logits[:1], [0], [1.0])], 1, [0.3])
    torch.testing.assert_close(alone, logits[0].log_softmax(-1), atol=1e-5, rtol=1e-5)
    logits[0, 4] = -torch.inf
    both = [Contribution(logits, [0, 1], [0.5, 0.5]), Contribution(other, [0, 1], [0.5, 0.5])]
    mixed = mix_logits(both, 2, [1.0, 1.0])
    assert mixed[0, 4] == -torch.inf and mixed.isfinite().sum() == 59
    torch.testing.assert_close(mixed.exp().sum(-1), torch.ones(2))


def test_a_small_power_is_close_to_the_weighted_sum() -> None:
    logits, other = torch.randn(1, 30) * 3, torch.randn(1, 30) * 3
    parts = [Contribution(logits, [0], [0.4]), Contribution(other, [0], [0.6])]
    summed, mean = mix_logits(parts, 1).log_softmax(-1), mix_logits(parts, 1, [1e-3])
    torch.testing.assert_close(mean, summed, atol=0.05, rtol=0)


@pytest.mark.parametrize("power", [float("nan"), float("inf")])
def test_a_power_that_is_no_number_is_refused(make_engine: MakeEngine, power: float) -> None:
    with pytest.raises(ValueError, match="power"):
        make_engine().add(powered({"base": 1.0}, power))


def test_a_power_mean_takes_no_weight_below_zero_not_even_later(make_engine: MakeEngine) -> None:
    engine: Engine = make_engine()
    with pytest.raises(ValueError, match="helpful"):
        engine.add(powered({"base": 1.0, "helpful": -0.1}, 1.0))
    engine.add(powered({"base": 1.0, "helpful": 0.1}, 1.0))
    with pytest.raises(ValueError, match="helpful"):
        engine.change("r", {"base": 1.0, "helpful": -0.1})


def powered(mix: dict[str, float], power: float) -> SequenceRequest:
    return SequenceRequest("r", {"base": [1], "helpful": [2]}, mix, SamplingParams(3), power=power)

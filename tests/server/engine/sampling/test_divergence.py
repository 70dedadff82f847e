"""A bound on KL(guided ‖ base) holds at every token, costs no more guidance than it must, and touches nobody else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from server.engine import Engine, SamplingParams, SequenceRequest, TokenOutput
from server.engine.sampling.divergence import kl, limit
from tests.server.engine.no_sync import NoSync

PROMPTS = {"base": [1, 2, 3], "helpful": [4, 5], "harmless": [6]}


def rows(seed: int, count: int = 6) -> torch.Tensor:
    return torch.randn(count, 300, generator=torch.Generator().manual_seed(seed)) * 3


def plain_kl(mixed: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    p, q = mixed.double().log_softmax(-1), base.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def test_kl_is_the_sum_and_ignores_what_the_mix_rules_out() -> None:
    mixed, base = rows(0), rows(1)
    torch.testing.assert_close(
        kl(mixed.log_softmax(-1), base.log_softmax(-1)).double(), plain_kl(mixed, base), rtol=0, atol=1e-4
    )
    mixed[:, 5:] = base[:, 5:] = -torch.inf
    assert kl(mixed.log_softmax(-1), base.log_softmax(-1)).isfinite().all()


def test_the_largest_scale_that_holds_is_found_and_rows_within_come_back_as_they_are() -> None:
    base = rows(2)
    mixed = base + torch.tensor([0.0, 0.1, 1.0, 3.0, 10.0, -5.0])[:, None] * rows(3) + 40.0
    bounds = [0.5, 0.5, 0.5, 0.1, 2.0, 0.0]
    kept, scales = limit(mixed, base, bounds)
    divergence = plain_kl(kept, base)
    for row, bound in enumerate(bounds):
        assert divergence[row] <= bound + 1e-4
        if scales[row] == 1.0:
            assert torch.equal(kept[row], mixed[row])
        else:
            assert divergence[row] == pytest.approx(bound, abs=1e-3)
            expected = base[row] + scales[row] * (mixed[row] - base[row])
            torch.testing.assert_close(kept[row].softmax(-1), expected.softmax(-1), rtol=0, atol=1e-5)
    assert scales[:2].tolist() == [1.0, 1.0] and (scales[2:] < 1.0).all()


def test_who_does_not_wait_for_the_device_scales_alike() -> None:
    base = rows(2)
    mixed = base + torch.tensor([0.0, 0.1, 1.0, 3.0, 10.0, -5.0])[:, None] * rows(3) + 40.0
    bounds = [0.5, 0.5, 0.5, 0.1, 2.0, 0.0]
    with NoSync():
        kept, scales = limit(mixed, base, bounds, sync=False)
    waited, their_scales = limit(mixed, base, bounds)
    assert torch.equal(kept, waited)
    assert torch.equal(scales, their_scales)


def run(engine: Engine, *requests: SequenceRequest) -> dict[str, list[TokenOutput]]:
    for one in requests:
        engine.add(one)
    outputs: dict[str, list[TokenOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    return outputs


def asked(
    name: str,
    mix: dict[str, float],
    max_kl: float | None,
    prompts: dict[str, list[int]] = PROMPTS,
    **sampling: Any,
) -> SequenceRequest:
    options: dict[str, Any] = {"max_tokens": 30, "seed": 4, "logprobs": 300, **sampling}
    return SequenceRequest(name, prompts, mix, SamplingParams(**options), report=True, max_kl=max_kl)


def test_no_token_exceeds_the_bound_and_its_log_probs_are_those_of_the_scaled_weights(
    make_engine: Callable[..., Engine], reference: Callable[..., torch.Tensor]
) -> None:
    engine = make_engine()
    mix = {"base": 1.0, "helpful": 3.0, "harmless": -2.0}
    outputs = run(engine, asked("r", mix, 0.4), asked("free", mix, None))
    assert all(output.report is not None and output.report.scale == 1.0 for output in outputs["free"])
    assert max(output.report.kl for output in outputs["free"] if output.report) > 0.4
    response = [output.token for output in outputs["r"]]
    single = {name: reference(engine, PROMPTS, {name: 1.0}, response) for name in mix}
    for step, output in enumerate(outputs["r"]):
        report = output.report
        assert report is not None and output.logprobs is not None
        assert report.kl <= 0.4 + 1e-3
        scaled = single["base"][step] + report.scale * sum(
            weight * single[name][step] for name, weight in mix.items() if name != "base"
        )
        row = scaled.log_softmax(-1)
        assert output.logprobs.logprob == pytest.approx(row[output.token].item(), abs=1e-4)
        if report.scale < 1.0:
            assert report.kl == pytest.approx(0.4, abs=1e-3)


def test_a_bound_that_does_not_bind_changes_nothing(make_engine: Callable[..., Engine]) -> None:
    mix = {"base": 1.0, "helpful": 0.3}
    bound = run(make_engine(), asked("r", mix, 1e6))["r"]
    assert bound == run(make_engine(), asked("r", mix, None))["r"]
    assert all(output.report is not None and output.report.scale == 1.0 for output in bound)


def test_a_bound_of_zero_is_the_base_alone(make_engine: Callable[..., Engine]) -> None:
    guided = run(make_engine(), asked("r", {"base": 1.0, "helpful": 2.0}, 0.0))["r"]
    alone = run(make_engine(), asked("r", {"base": 1.0}, None))["r"]
    assert [output.token for output in guided] == [output.token for output in alone]


def test_neighbours_without_a_bound_do_not_notice(make_engine: Callable[..., Engine]) -> None:
    mix = {"base": 1.0, "helpful": 3.0}
    alone = run(make_engine(), asked("free", mix, None))["free"]
    beside = run(make_engine(), asked("r", mix, 0.1, seed=9), asked("free", mix, None))["free"]
    assert [output.token for output in beside] == [output.token for output in alone]


def test_a_bound_that_is_no_bound_is_refused(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    for bound in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="max_kl"):
            engine.add(asked("r", {"base": 1.0}, bound))
    with pytest.raises(ValueError, match="max_kl"):
        engine.add(asked("r", {"helpful": 1.0}, 1.0, prompts={"helpful": [4]}))
    with pytest.raises(ValueError, match="max_kl"):
        engine.add(replace(asked("r", {"helpful": 1.0}, 1.0), power=1.0))


def test_a_mix_without_the_base_is_pulled_towards_it(
    make_engine: Callable[..., Engine], reference: Callable[..., torch.Tensor]
) -> None:
    engine = make_engine()
    outputs = run(engine, asked("r", {"helpful": 1.0}, 0.4))["r"]
    response = [output.token for output in outputs]
    base, other = (reference(engine, PROMPTS, {name: 1.0}, response) for name in ("base", "helpful"))
    for step, output in enumerate(outputs):
        assert output.report is not None and output.logprobs is not None
        assert output.report.kl <= 0.4 + 1e-3
        row = (base[step] + output.report.scale * (other[step] - base[step])).log_softmax(-1)
        assert output.logprobs.logprob == pytest.approx(row[output.token].item(), abs=1e-4)
    assert min(output.report.scale for output in outputs if output.report) < 1.0

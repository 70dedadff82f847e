"""What is told about tokens: log-probs of prompts, and what guidance did, as a plain recomputation gives them."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from server.engine import Engine, SamplingParams, SequenceRequest, TokenLogprobs, TokenOutput
from server.engine.sampling.report import measure_reports, token_logprobs
from server.engine.speculation.pace import Pace

MIX = {"base": 1.0, "helpful": 0.7, "harmless": -0.4}
TEXT = torch.randint(300, (53,), generator=torch.Generator().manual_seed(5)).tolist()
Reference = Callable[..., torch.Tensor]


def reading(name: str, text: Sequence[int], max_tokens: int = 0, seed: int = 0) -> SequenceRequest:
    """Every member reads the same text, and its log-probs are wanted with the three best."""
    sampling = SamplingParams(max_tokens, seed=seed, prompt_logprobs=3)
    return SequenceRequest(name, {name: list(text) for name in MIX}, MIX, sampling)


def run(engine: Engine) -> dict[str, list[TokenOutput]]:
    outputs: dict[str, list[TokenOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    engine.check_integrity()
    return outputs


def check(
    engine: Engine,
    reference: Reference,
    text: Sequence[int],
    got: Sequence[TokenLogprobs | None] | None,
    mix: dict[str, float] = MIX,
) -> None:
    assert got is not None and len(got) == len(text) and got[0] is None
    start = text[:1]
    rows = reference(engine, dict.fromkeys(mix, start), mix, text[1:])
    for row, token, entry in zip(rows, text[1:], got[1:], strict=True):
        assert entry is not None
        assert entry.logprob == pytest.approx(row[token].item(), abs=1e-4)
        best = row.topk(3)
        assert [logprob for _, logprob in entry.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        # The best token's log-prob is the same number on both ways, so that "was it greedy" is a plain comparison.
        assert (entry.top[0][0] == token) == (entry.top[0][1] == entry.logprob)


@pytest.mark.parametrize("limits", [{}, {"prefill_chunk": 7, "max_step_tokens": 32}, {"kv_tokens": 192}])
def test_log_probs_of_a_prompt_are_those_of_plain_forwards(
    make_engine: Callable[..., Engine], reference: Reference, limits: dict[str, int]
) -> None:
    engine = make_engine(**limits)
    texts = {f"t{length}": TEXT[:length] for length in (1, 2, 7, 8, 30, 53)}
    for name, text in texts.items():
        engine.add(reading(name, text, max_tokens=len(text) % 3))
    for name, outputs in run(engine).items():
        check(engine, reference, texts[name], outputs[0].prompt_logprobs)
        assert all(output.prompt_logprobs is None for output in outputs[1:])


def test_without_tokens_to_draw_the_prompt_is_read_and_that_is_all(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    engine.add(reading("r", TEXT))
    (output,) = run(engine)["r"]
    assert (output.token, output.finish_reason, output.index) == (-1, "length", 0)


def test_a_text_as_long_as_the_context_can_be_scored(
    make_engine: Callable[..., Engine], reference: Reference
) -> None:
    engine = make_engine(kv_tokens=256)
    text = [number % 300 for number in range(256)]
    engine.add(reading("r", text))
    check(engine, reference, text, run(engine)["r"][0].prompt_logprobs)


def test_answers_to_one_prompt_share_its_log_probs(
    make_engine: Callable[..., Engine], reference: Reference
) -> None:
    engine = make_engine()
    engine.add(*(reading(f"r{seed}", TEXT, max_tokens=4, seed=seed) for seed in range(3)))
    outputs = run(engine)
    assert engine.stats().prompt_tokens_computed == len(TEXT)
    for one in outputs.values():
        check(engine, reference, TEXT, one[0].prompt_logprobs)


def test_preemption_while_a_prompt_is_read_leaves_no_trace(
    make_engine: Callable[..., Engine], reference: Reference
) -> None:
    engine = make_engine(prefill_chunk=8, kv_tokens=192)
    # The old one needs a second block of 64 tokens when the other has read about half of its prompt in the remaining two.
    start = TEXT[:50]
    engine.add(SequenceRequest("old", dict.fromkeys(MIX, start), MIX, SamplingParams(60, seed=1)))
    while not engine.step():
        pass
    long = (TEXT * 3)[:120]
    engine.add(reading("r", long))
    outputs = run(engine)
    assert engine.stats().preemptions == 1
    assert len(outputs["old"]) == 59
    check(engine, reference, long, outputs["r"][0].prompt_logprobs)


def test_members_with_different_work_still_read_a_prompt_in_step(
    make_engine: Callable[..., Engine], reference: Reference
) -> None:
    engine = make_engine(prefill_chunk=8, max_step_tokens=16, max_sequences=4)
    for name in ("first", "second"):
        engine.add(SequenceRequest(name, {"base": TEXT[:40]}, {"base": 1.0}, SamplingParams(1)))
    # The base's budget of a step is spent on the two before it; the rewards are free.
    engine.add(reading("r", TEXT))
    check(engine, reference, TEXT, run(engine)["r"][0].prompt_logprobs)


def test_new_weights_while_a_prompt_is_read_hold_for_all_of_it(
    make_engine: Callable[..., Engine], reference: Reference
) -> None:
    engine = make_engine(prefill_chunk=8)
    engine.add(reading("r", TEXT, max_tokens=2))
    for _ in range(3):
        assert not engine.step()
    mix = {"base": 1.0, "harmless": 1.5}
    assert engine.change("r", mix) == 0
    check(engine, reference, TEXT, run(engine)["r"][0].prompt_logprobs, mix)


def test_log_probs_of_a_prompt_need_one_text_for_all(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    prompts = {"base": [1, 2], "helpful": [1, 3], "harmless": [1, 2]}
    sampling = SamplingParams(1, prompt_logprobs=0)
    with pytest.raises(ValueError, match="different prompts"):
        engine.add(SequenceRequest("r", prompts, {"base": 1.0, "helpful": 1.0}, sampling))
    engine.add(SequenceRequest("r", prompts, {"base": 1.0, "harmless": 1.0}, sampling))
    with pytest.raises(ValueError, match="different prompts"):
        engine.change("r", {"base": 1.0, "helpful": 1.0})


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_a_report_says_what_guidance_did(
    make_engine: Callable[..., Engine], reference: Reference, temperature: float
) -> None:
    engine = make_engine()
    prompts = {"base": TEXT[:9], "helpful": TEXT[:20], "harmless": TEXT[3:6]}
    mixes = [MIX, {"base": 1.0}, {"base": 1.0, "harmless": 2.0}, {"base": 0.5, "helpful": 0.5}]
    for number, mix in enumerate(mixes):
        sampling = SamplingParams(12, seed=number, temperature=temperature, repetition_penalty=1.1)
        engine.add(SequenceRequest(f"r{number}", prompts, mix, sampling, report=True))
    for name, outputs in run(engine).items():
        mix = mixes[int(name[1:])]
        response = [output.token for output in outputs]
        mixed = reference(engine, prompts, mix, response)
        single = {member: reference(engine, prompts, {member: 1.0}, response) for member in mix}
        for step, output in enumerate(outputs):
            report, base, row = output.report, single["base"][step], mixed[step]
            assert report is not None
            assert report.kl == pytest.approx((row.exp() * (row - base)).sum().item(), abs=1e-4)
            assert report.base_logprob == pytest.approx(base[output.token].item(), abs=1e-4)
            assert report.base_top == base.argmax() and report.mix_top == row.argmax()
            assert sorted(report.rewards) == sorted(set(mix) - {"base"})
            for reward, logprob in report.rewards.items():
                assert logprob == pytest.approx(single[reward][step][output.token].item(), abs=1e-4)


def test_a_report_is_made_for_those_only_that_asked(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    prompts = {"base": [1, 2], "helpful": [3]}
    mix = {"base": 1.0, "helpful": 1.0}
    engine.add(SequenceRequest("quiet", prompts, mix, SamplingParams(3)))
    engine.add(SequenceRequest("told", prompts, mix, SamplingParams(3), report=True))
    outputs = run(engine)
    assert all(output.report is None for output in outputs["quiet"])
    assert all(output.report is not None for output in outputs["told"])
    with pytest.raises(ValueError, match="report"):
        engine.add(SequenceRequest("r", {"helpful": [3]}, {"helpful": 1.0}, SamplingParams(3), report=True))


@pytest.mark.parametrize("speculation", ["off", "prompt"])
def test_the_base_is_read_for_a_report_and_has_no_part_in_what_is_drawn(
    make_engine: Callable[..., Engine], reference: Reference, speculation: str, steady: Callable[..., Pace]
) -> None:
    prompts = {"base": TEXT[:9], "helpful": TEXT[:20], "harmless": [8]}
    quiet, told = make_engine(), make_engine(speculation=speculation, pace=steady(2))
    mixes = [{"helpful": 1.0}, {"base": 0.0, "helpful": 1.0}, {"helpful": 0.6, "harmless": 0.4}]
    for number, mix in enumerate(mixes):
        sampling = SamplingParams(14, seed=number, logprobs=300, temperature=0.9)
        quiet.add(SequenceRequest(f"r{number}", prompts, mix, sampling))
        told.add(SequenceRequest(f"r{number}", prompts, mix, sampling, report=True))
    expected, got = run(quiet), run(told)
    for number, mix in enumerate(mixes):
        response = [output.token for output in got[f"r{number}"]]
        base = reference(told, prompts, {"base": 1.0}, response)
        mixed = reference(told, prompts, {name: weight for name, weight in mix.items() if weight}, response)
        for step, (alone, output) in enumerate(zip(expected[f"r{number}"], got[f"r{number}"], strict=True)):
            assert (output.token, output.logprobs) == (alone.token, alone.logprobs)
            assert output.report is not None
            row = mixed[step]
            assert output.report.kl == pytest.approx((row.exp() * (row - base[step])).sum().item(), abs=1e-4)
            assert output.report.base_logprob == pytest.approx(base[step][output.token].item(), abs=1e-4)
            assert sorted(output.report.rewards) == sorted(name for name, weight in mix.items() if weight)
    assert quiet.stats().prompt_tokens_computed == 0 < told.stats().prompt_tokens_computed


def test_without_a_report_a_base_of_weight_zero_is_not_read(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    sampling = SamplingParams(3)
    engine.add(
        SequenceRequest("r", {"base": [1, 2], "helpful": [3]}, {"base": 0.0, "helpful": 1.0}, sampling)
    )
    engine.step()
    assert engine.stats().cache_usage["base"] == 0.0


def test_tokens_that_a_row_rules_out_are_in_no_list() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 2.0, -torch.inf]])
    (entry,) = token_logprobs(logits, [2], [4])
    assert [token for token, _ in entry.top] == [2, 0]
    base = torch.zeros(1, 4)
    measured = measure_reports(logits, base, {}, torch.tensor([2]), torch.ones(1))
    p = torch.tensor([1.0, 2.0]).softmax(-1)
    assert measured["kl"].item() == pytest.approx((p * (p.log() - math.log(0.25))).sum().item(), abs=1e-6)

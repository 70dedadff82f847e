"""The engine's promises: exact mixes, free zeros, rows that do not see each other, nothing leaked."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from arm_models.loading import Family
from server.engine import Engine, SamplingParams, SequenceRequest, TokenOutput

Reference = Callable[[Engine, Mapping[str, Sequence[int]], Mapping[str, float], Sequence[int]], torch.Tensor]
NAMES = ("base", "helpful", "harmless")
both_caches = pytest.mark.parametrize("cache", ["slabs", "pages"])
"""Whatever lies in rows of slabs and in pages alike."""


def prompts_of(seed: int, longest: int = 40) -> dict[str, list[int]]:
    """A prompt of its own length for every member, as different templates give."""
    rng = random.Random(seed)
    return {name: [rng.randrange(300) for _ in range(rng.randint(1, longest))] for name in NAMES}


def request(number: int, mix: Mapping[str, float], **sampling: Any) -> SequenceRequest:
    """Request ``number``: its prompts, seed and length follow from the number."""
    options: dict[str, Any] = {"max_tokens": 12, "seed": number, **sampling}
    return SequenceRequest(f"r{number}", prompts_of(number), mix, SamplingParams(**options))


def random_mix(rng: random.Random) -> dict[str, float]:
    return {"base": 1.0, "helpful": rng.choice([0, 0.7, -0.4]), "harmless": rng.choice([0, 0, 1.5])}


def run(engine: Engine, requests: Sequence[SequenceRequest]) -> dict[str, list[TokenOutput]]:
    """Every output by id."""
    outputs: dict[str, list[TokenOutput]] = {one.id: [] for one in requests}
    for one in requests:
        engine.add(one)
    while engine.has_work:
        for output in engine.step():
            outputs[output.id].append(output)
    engine.check_integrity()
    return outputs


def tokens_of(outputs: Sequence[TokenOutput]) -> list[int]:
    return [output.token for output in outputs]


@both_caches
@pytest.mark.parametrize("limits", [{}, {"prefill_chunk": 7, "max_step_tokens": 32}, {"kv_tokens": 256}])
def test_every_step_draws_from_the_plain_mix(
    make_engine: Callable[..., Engine], reference: Reference, limits: dict[str, int]
) -> None:
    rng = random.Random(0)
    engine = make_engine(**limits)
    requests = [
        request(number, random_mix(rng), logprobs=300, max_tokens=rng.randint(1, 50)) for number in range(10)
    ]
    outputs = run(engine, requests)
    if "kv_tokens" in limits:
        assert engine.stats().preemptions > 0
    for one in requests:
        expected = reference(engine, one.prompts, one.mix, tokens_of(outputs[one.id]))
        for row, output in zip(expected, outputs[one.id], strict=True):
            assert output.logprobs is not None
            got = torch.zeros(300, dtype=torch.double)
            for token, logprob in output.logprobs.top:
                got[token] = logprob
            assert (got - row).abs().max() < 1e-4
            assert output.logprobs.logprob == pytest.approx(row[output.token].item(), abs=1e-4)


@both_caches
def test_weight_zero_is_bit_equal_to_the_base_alone_and_costs_nothing(
    make_engine: Callable[..., Engine], family: Family, cache: str
) -> None:
    alone = make_engine(Family(family.base, (), family.eos_ids))
    guided = make_engine()
    zero = [request(n, {"base": 1.0, "helpful": 0.0, "harmless": 0.0}, logprobs=300) for n in range(6)]
    plain = [
        SequenceRequest(one.id, {"base": one.prompts["base"]}, {"base": 1.0}, one.sampling) for one in zero
    ]
    idle = {"helpful", "harmless"}

    def refuse(*_: object) -> None:
        raise AssertionError("a member with weight 0 was run")

    for name in idle:
        guided.members[name].runner.forward = refuse  # type: ignore[method-assign, assignment]
    assert run(guided, zero) == run(alone, plain)
    for name in idle:
        held = guided.members[name].cache
        assert held.free_blocks == held.num_blocks
        if cache == "slabs":
            assert held.allocated_blocks == 0


@both_caches
@pytest.mark.parametrize("deterministic", [False, True])
def test_a_request_gives_the_same_tokens_alone_and_among_others(
    make_engine: Callable[..., Engine], deterministic: bool
) -> None:
    limits: dict[str, Any] = {"prefill_chunk": 16, "kv_tokens": 512, "deterministic": deterministic}
    rng = random.Random(1)
    requests = [
        request(
            number,
            random_mix(rng),
            temperature=rng.choice([0.0, 0.7, 1.3]),
            top_p=rng.choice([1.0, 0.9]),
            top_k=rng.choice([0, 20]),
            max_tokens=rng.randint(1, 60),
            logprobs=3,
        )
        for number in range(32)
    ]
    alone_engine = make_engine(**limits)
    alone = {one.id: run(alone_engine, [one])[one.id] for one in requests}
    crowded = make_engine(**limits)
    together: dict[str, list[TokenOutput]] = {one.id: [] for one in requests}
    waiting = list(requests)
    while waiting or crowded.has_work:
        if waiting and (rng.random() < 0.5 or not crowded.has_work):
            crowded.add(waiting.pop())
        for output in crowded.step():
            together[output.id].append(output)
    assert crowded.stats().preemptions > 0
    for one in requests:
        assert tokens_of(together[one.id]) == tokens_of(alone[one.id])
    if deterministic:
        # The log-probs agree to the last bit: neighbours, chunking and preemption leave no trace in the arithmetic.
        assert together == alone


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_new_weights_hold_from_the_answered_token_on(
    make_engine: Callable[..., Engine], temperature: float
) -> None:
    """… exactly as a fresh request on prompt + the tokens so far, under the new weights, would draw them."""
    rng = random.Random(2)
    limits: dict[str, Any] = {"prefill_chunk": 8, "max_step_tokens": 64, "kv_tokens": 1536}
    engine, fresh = make_engine(**limits), make_engine(**limits)
    requests = [
        request(number, random_mix(rng), max_tokens=36, temperature=temperature) for number in range(160)
    ]
    unchanged = run(make_engine(**limits), requests)
    outputs: dict[str, list[TokenOutput]] = {one.id: [] for one in requests}
    changes: dict[str, tuple[int, dict[str, float]]] = {}
    for one in requests:
        engine.add(one)
    while engine.has_work:
        open_ones = [one for one in requests if one.id not in changes and under_way(outputs[one.id])]
        for candidate in rng.sample(open_ones, min(len(open_ones), rng.randint(0, 3))):
            mix = random_mix(rng)
            changes[candidate.id] = (engine.change(candidate.id, mix), mix)
            assert changes[candidate.id][0] == len(outputs[candidate.id])
        for output in engine.step():
            outputs[output.id].append(output)
    engine.check_integrity()
    assert len(changes) >= 100
    assert engine.stats().preemptions > 0
    for one in requests:
        if one.id not in changes:
            continue
        at, mix = changes[one.id]
        got = tokens_of(outputs[one.id])
        assert got[:at] == tokens_of(unchanged[one.id])[:at]
        assert got[at:] == continuation(fresh, one, got[:at], mix)


@both_caches
def test_a_weight_that_returns_to_zero_gives_its_memory_back_at_once(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    engine.add(request(1, {"base": 1.0, "helpful": 1.0}))
    engine.step()
    cache = engine.members["helpful"].cache
    assert cache.free_blocks < cache.num_blocks
    engine.change("r1", {"base": 1.0, "helpful": 0.0})
    assert cache.free_blocks == cache.num_blocks


def under_way(outputs: Sequence[TokenOutput]) -> bool:
    return not outputs or outputs[-1].finish_reason is None


def continuation(
    engine: Engine, one: SequenceRequest, written: list[int], mix: Mapping[str, float]
) -> list[int]:
    """The response of a fresh request whose prompts are the old ones and ``written``."""
    left = one.sampling.max_tokens - len(written)
    if left == 0:
        return []
    prompts = {name: [*prompt, *written] for name, prompt in one.prompts.items()}
    sampling = SamplingParams(left, one.sampling.temperature, seed=one.sampling.seed)
    return engine.generate([SequenceRequest("fresh", prompts, mix, sampling)])["fresh"]


@pytest.mark.slow
def test_random_traffic_with_aborts_and_preemption_leaves_nothing_behind(
    make_engine: Callable[..., Engine],
) -> None:
    """2,000 requests: the right tokens for those that end, every block free, the books balanced throughout."""
    rng = random.Random(3)
    limits: dict[str, Any] = {
        "prefill_chunk": 16,
        "max_sequences": 48,
        "max_step_tokens": 128,
        "kv_tokens": 1536,
    }
    engine, alone = make_engine(**limits), make_engine()
    waiting = [request(n, random_mix(rng), max_tokens=rng.randint(1, 40)) for n in range(2000)]
    by_id = {one.id: one for one in waiting}
    outputs: dict[str, list[TokenOutput]] = {one.id: [] for one in waiting}
    while waiting or engine.has_work:
        while waiting and (rng.random() < 0.75 or not engine.has_work):
            engine.add(waiting.pop())
        if rng.random() < 0.3:
            for output in engine.abort(rng.choice(list(by_id))):
                outputs[output.id].append(output)
        for output in engine.step():
            outputs[output.id].append(output)
        if engine.stats().steps % 50 == 0:
            engine.check_integrity()
    engine.check_integrity()
    assert engine.stats().preemptions > 20
    ended = [one for one in outputs.values() if one[-1].finish_reason == "length"]
    aborted = [one for one in outputs.values() if one[-1].finish_reason == "abort"]
    assert len(ended) + len(aborted) == 2000
    assert len(aborted) > 50
    for number in rng.sample(range(2000), 60):
        got = [output.token for output in outputs[f"r{number}"] if output.token >= 0]
        assert alone.generate([by_id[f"r{number}"]])[f"r{number}"][: len(got)] == got


def test_a_row_that_is_not_finite_ends_alone(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    healthy, broken = request(1, {"base": 1.0}), request(2, {"base": 1.0, "helpful": 0.5})
    expected = run(make_engine(), [healthy])
    runner = engine.members["helpful"].runner
    forward = runner.forward
    runner.forward = lambda *args: {name: part * float("nan") for name, part in forward(*args).items()}  # type: ignore[method-assign]
    outputs = run(engine, [healthy, broken])
    assert outputs["r1"] == expected["r1"]
    (failed,) = outputs["r2"]
    assert failed.finish_reason == "error"
    assert failed.error is not None and "not finite" in failed.error


def test_a_stop_token_is_the_last_token(make_engine: Callable[..., Engine]) -> None:
    free = run(make_engine(), [request(4, {"base": 1.0}, max_tokens=12)])["r4"]
    stop = free[5].token
    first = tokens_of(free).index(stop)
    stopped = run(make_engine(), [request(4, {"base": 1.0}, stop_token_ids=frozenset({stop}))])["r4"]
    assert tokens_of(stopped) == tokens_of(free)[: first + 1]
    assert [output.finish_reason for output in stopped] == [None] * first + ["stop"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": {"base": 1.0, "kind": 1.0}}, "no member 'kind'; there are base, helpful, harmless"),
        ({"mix": {"base": float("nan")}}, "must be finite"),
        ({"mix": {"base": 0.0}}, "at least one member"),
        ({"prompts": {"base": []}}, "empty prompt"),
        ({"prompts": {"base": [300]}}, "outside its vocabulary of 300"),
        ({"prompts": {"base": [-1]}}, "outside its vocabulary"),
        ({"prompts": {"base": [1], "kind": [1]}}, "no member 'kind'"),
        (
            {"mix": {"base": 1.0, "helpful": 1.0}, "prompts": {"base": [1]}},
            "helpful is weighted in but has no prompt",
        ),
        (
            {"prompts": {"base": [1] * 250}},
            "reads at most 256 tokens; its prompt has 250 and max_tokens is 12",
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_said(
    make_engine: Callable[..., Engine], changes: dict[str, Any], message: str
) -> None:
    engine = make_engine()
    good: dict[str, Any] = {"prompts": {"base": [1]}, "mix": {"base": 1.0}} | changes
    with pytest.raises(ValueError, match=message):
        engine.add(SequenceRequest("bad", good["prompts"], good["mix"], SamplingParams(12)))
    assert not engine.has_work


def test_a_taken_id_is_refused(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    engine.add(request(1, {"base": 1.0}))
    with pytest.raises(ValueError, match="already under way"):
        engine.add(request(1, {"base": 1.0}))

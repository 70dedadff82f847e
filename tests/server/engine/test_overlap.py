"""Overlapped steps: a step begins before the last one's tokens are known, and nobody can tell by what is drawn."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from server.engine import Engine, EngineConfig, SamplingParams, SequenceRequest, TokenOutput
from server.engine.engine import overlaps
from server.engine.paged_runner import PagedRunner
from server.engine.transfer import Download
from tests.server.engine.no_sync import NoSync
from tests.server.engine.transcript import Pairs, Run

NAMES = ("base", "helpful", "harmless")
MakeEngine = Callable[..., Engine]


def weights(rng: random.Random) -> dict[str, float]:
    return {"base": 1.0, "helpful": rng.choice([0, 0.7, -0.4]), "harmless": rng.choice([0, 0, 1.5])}


def request(number: int, rng: random.Random) -> SequenceRequest:
    """All that a request can ask for, mixed."""
    sampling: dict[str, Any] = {"max_tokens": rng.choice((1, 2, 9, rng.randint(1, 24))), "seed": number}
    sampling["temperature"] = rng.choice((0.0, 0.3, 0.7, 1.0, 1.3))
    sampling |= rng.choice(({}, {"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.1}))
    sampling |= rng.choice(
        (
            {},
            {},
            {},
            {"presence_penalty": 1.0, "repetition_penalty": 1.3} if rng.random() < 0.3 else {},
            {"logit_bias": {20: 4.0, 21: 4.0}},
            {"logit_bias": {20: 9.0, 21: 9.0}, "min_tokens": 6},
        )
    )
    sampling |= {"stop_token_ids": frozenset({0, *rng.sample(range(300), 12)})}
    sampling["logprobs"] = rng.choice((None, None, 0, 3))
    # Some of about a block, which they outgrow while they answer.
    lengths = [rng.choice((rng.randint(1, 40), rng.randint(54, 63))) for _ in NAMES]
    prompts = {
        name: [rng.randrange(300) for _ in range(length)] for name, length in zip(NAMES, lengths, strict=True)
    }
    mix = weights(rng)
    if rng.random() < 0.1:
        prompts = dict.fromkeys(NAMES, prompts["base"])
        sampling["prompt_logprobs"] = 2
    return SequenceRequest(
        f"r{number}",
        prompts,
        mix,
        SamplingParams(**sampling),
        grammar=Pairs if rng.random() < 0.05 else None,
        report=rng.random() < 0.2,
        max_kl=rng.choice((None, None, 0.5)),
    )


def groups(count: int, rng: random.Random) -> list[list[SequenceRequest]]:
    """Requests, some of them for three answers."""
    asked = []
    while count > 0:
        one = request(count, rng)
        answers = 3 if rng.random() < 0.1 else 1
        asked.append(
            [replace(one, id=f"{one.id}/{n}", sampling=replace(one.sampling, seed=n)) for n in range(answers)]
        )
        count -= answers
    return asked


def as_on_a_gpu(engine: Engine) -> Engine:
    """Nothing waits for the device, and pages run in buckets as recordings do."""
    engine._sync = False
    for member in engine.members.values():
        if isinstance(member.runner, PagedRunner):
            member.runner.record(64, 256, None)
    return engine


def overlapped(engine: Engine, asked: list[list[SequenceRequest]], rng: random.Random) -> Run:
    """Answers; some are put under other weights, some are aborted, in the middle."""
    run, left = Run(), list(asked)
    while left or engine.has_work:
        for group in left[: rng.randint(0, 12)]:
            engine.add(*group)
            left.remove(group)
        run.take(engine.step())
        for sequence in list(engine._scheduler.running):
            if rng.random() < 0.05:
                mix = weights(rng)
                run.changes.setdefault(sequence.id, []).append((engine.change(sequence.id, mix), mix))
            elif rng.random() < 0.01:
                run.take(engine.abort(sequence.id))
    engine.check_integrity()
    return run


def repeat(engine: Engine, asked: list[list[SequenceRequest]], like: Run) -> Run:
    """The same answers, with the changes behind the same tokens; aborted ones are written to their end."""
    run = Run()
    changes = {name: list(made) for name, made in like.changes.items()}
    for group in asked:
        engine.add(*group)
    while engine.has_work:
        for name, made in changes.items():
            while made and made[0][0] == len(run.outputs.get(name, ())) and name in engine._scheduler:
                engine.change(name, made.pop(0)[1])
        run.take(engine.step())
    engine.check_integrity()
    return run


def numbers(output: TokenOutput) -> list[float]:
    """All that is told about a token."""
    told: list[float] = []
    for one in (output.logprobs, *(output.prompt_logprobs or ())):
        told += [one.logprob, *(value for _, value in one.top)] if one else []
    if output.report:
        report = output.report
        told += [report.kl, report.base_logprob, report.scale, *report.rewards.values()]
        told += [float(report.base_top), float(report.mix_top)]
    return told


def assert_same_answers(ours: Run, plain: Run) -> None:
    """What was not aborted in ``ours`` is the same in ``plain``, numbers up to rounding."""
    for name, outputs in ours.outputs.items():
        whole = [one for one in outputs if one.finish_reason != "abort"]
        others = plain.outputs[name]
        for one, other in zip(whole, others, strict=len(whole) == len(outputs)):
            assert (one.token, one.finish_reason, one.error) == (
                other.token,
                other.finish_reason,
                other.error,
            )
            assert numbers(one) == pytest.approx(numbers(other), abs=1e-4)


@pytest.mark.parametrize(
    ("count", "limits"),
    [(300, {}), (120, {"kv_tokens": 64 * 7}), (60, {"cache": "pages"}), (30, {"speculation": "prompt"})],
    ids=["room", "short of memory", "pages", "speculation"],
)
def test_every_answer_is_what_it_is_without(
    make_engine: MakeEngine, count: int, limits: dict[str, Any]
) -> None:
    asked = groups(count, random.Random(count))
    common: dict[str, Any] = {"prefill_chunk": 16, "max_sequences": 24, "deterministic": True, **limits}
    engine = as_on_a_gpu(make_engine(overlap=True, **common))
    preempt, put_off = engine._scheduler._preempt, []

    def watched(sequence: Any) -> None:
        put_off.append(sequence.awaits)
        preempt(sequence)

    engine._scheduler._preempt = watched  # type: ignore[method-assign]
    ours = overlapped(engine, asked, random.Random(1))
    plain = repeat(make_engine(overlap=False, **common), asked, ours)
    assert len(ours.outputs) >= count
    assert_same_answers(ours, plain)
    ends = {outputs[-1].finish_reason for outputs in ours.outputs.values()}
    assert ends >= {"stop", "length"}
    assert any(put_off) == ("kv_tokens" in limits)
    assert sum(map(len, ours.changes.values())) > count // 10


def plain(name: str, max_tokens: int = 6, **sampling: Any) -> SequenceRequest:
    prompts = {"base": [1, 2, 3], "helpful": [4, 5], "harmless": [6]}
    return SequenceRequest(name, prompts, {"base": 1.0}, SamplingParams(max_tokens, **sampling))


def told(engine: Engine) -> list[TokenOutput]:
    """Everything that is still to come."""
    outputs: list[TokenOutput] = []
    while engine.has_work:
        outputs += engine.step()
    engine.check_integrity()
    return outputs


@pytest.mark.parametrize("overlap", [True, False])
def test_a_step_is_launched_before_the_tokens_of_the_last_one_are_read(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch, overlap: bool
) -> None:
    engine = make_engine(overlap=overlap)
    forward, wait = engine._forward, Download.wait
    events: list[str] = []

    def launched(chunks: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        events.extend(["launched"] if chunks else [])
        return forward(chunks)

    def read(download: Download) -> dict[str, list[Any]]:
        events.append("read")
        return wait(download)

    monkeypatch.setattr(Download, "wait", read)
    engine._forward = launched  # type: ignore[method-assign]
    engine.add(plain("r", 4))
    assert len(told(engine)) == 4
    assert events == (
        ["launched", *["launched", "read"] * 3, "read"] if overlap else ["launched", "read"] * 4
    )


def test_from_logits_to_the_launch_of_the_next_step_nothing_waits_for_the_device(
    make_engine: MakeEngine,
) -> None:
    engine = as_on_a_gpu(make_engine(overlap=True))
    draw, draws = engine._draw, []

    def watched(*args: Any) -> Any:
        with NoSync():
            draws.append(draw(*args))
        return draws[-1]

    engine._draw = watched  # type: ignore[method-assign]
    rng = random.Random(4)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"top_p": 0.9, "logprobs": 3},
        {"top_k": 9, "temperature": 1e-4},
        {"min_p": 0.1, "logit_bias": {3: 2.0}},
        {"min_tokens": 3, "stop_token_ids": frozenset({1, 2})},
    ]
    for number, kind in enumerate(kinds):
        one = replace(plain(f"r{number}", 5, **kind), mix=weights(rng))
        engine.add(replace(one, report=number % 2 == 0, max_kl=0.01 if number % 3 == 0 else None))
    engine.add(plain("first", 5), plain("second", 5))  # both drawn from one row
    assert len(told(engine)) == 35
    assert len(draws) == 5


def test_new_weights_hold_behind_the_token_that_is_being_drawn(make_engine: MakeEngine) -> None:
    """… exactly as for a fresh request on prompt + the tokens so far."""
    engine, fresh = make_engine(overlap=True), make_engine()
    one = plain("r", 20, seed=5)
    engine.add(one)
    outputs = [*engine.step(), *engine.step(), *engine.step()]
    mix = {"base": 1.0, "helpful": 1.5}
    answered = engine.change("r", mix)
    assert answered == len(outputs) + 1 == 3
    tokens = [output.token for output in [*outputs, *told(engine)]]
    before = fresh.generate([plain("r", 20, seed=5)])["r"]
    assert tokens[:answered] == before[:answered]
    prompts = {name: [*prompt, *tokens[:answered]] for name, prompt in one.prompts.items()}
    rest = SequenceRequest("rest", prompts, mix, SamplingParams(17, seed=5))
    assert tokens[answered:] == fresh.generate([rest])["rest"] != before[answered:]


def test_an_answer_that_is_aborted_is_not_heard_of_again(make_engine: MakeEngine) -> None:
    engine = make_engine(overlap=True)
    engine.add(plain("r"))
    assert engine.step() == []
    assert [output.index for output in engine.step()] == [0]
    assert engine.abort("r") == [TokenOutput("r", 1, -1, "abort")]
    engine.check_integrity()
    assert not engine.has_work
    # Not even by another of the same name, whose token comes with the next step.
    engine.add(plain("r", seed=3))
    assert engine.step() == []
    assert [output.index for output in told(engine)] == list(range(6))


def test_only_what_ends_unforeseen_is_computed_a_token_too_far(make_engine: MakeEngine) -> None:
    free = make_engine().generate([plain("r", 6, seed=2)])["r"]
    stop = free[3]
    for ends, rows in (({}, 6), ({"stop_token_ids": frozenset({stop})}, free.index(stop) + 2)):
        engine = make_engine(overlap=True)
        forward, drawn = engine._forward, []

        def watched(
            chunks: Mapping[str, Any], forward: Any = forward, drawn: list[int] = drawn
        ) -> dict[str, torch.Tensor]:
            drawn.extend(len(of_one) for of_one in chunks.values())
            result: dict[str, torch.Tensor] = forward(chunks)
            return result

        engine._forward = watched  # type: ignore[method-assign]
        engine.add(plain("r", 6, seed=2, **ends))
        outputs = told(engine)
        assert [output.token for output in outputs] == free[: free.index(stop) + 1 if ends else 6]
        assert sum(drawn) == rows


@pytest.mark.parametrize("needs", [{"presence_penalty": 0.5}, {"grammar": True}, {"speculation": "prompt"}])
def test_who_needs_to_know_a_token_gets_it_in_its_own_step(
    make_engine: MakeEngine, needs: dict[str, Any]
) -> None:
    engine = make_engine(overlap=True, speculation=needs.get("speculation", "off"))
    one = plain("r", **{name: value for name, value in needs.items() if name == "presence_penalty"})
    engine.add(replace(one, grammar=Pairs) if "grammar" in needs else one)
    for index in range(3):
        assert [output.index for output in engine.step()] == [index]


def test_what_is_in_flight_when_a_step_fails_gets_one_error_each(make_engine: MakeEngine) -> None:
    engine = make_engine(overlap=True)
    engine.add(plain("a"))
    engine.step()
    engine.add(plain("b"))
    engine.step()

    def broken(_: object) -> dict[str, torch.Tensor]:
        raise RuntimeError("the device fell off the bus")

    engine._forward = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="fell off"):
        engine.step()
    failed = engine.fail_all("the engine died")
    assert [(one.id, one.index, one.finish_reason) for one in failed] == [
        ("a", 1, "error"),
        ("b", 0, "error"),
    ]


def test_a_row_that_is_not_finite_ends_alone(make_engine: MakeEngine) -> None:
    engine = as_on_a_gpu(make_engine(overlap=True))
    expected = make_engine().generate([plain("fine")])["fine"]
    runner = engine.members["helpful"].runner
    forward = runner.forward
    runner.forward = lambda *args: {name: part * float("nan") for name, part in forward(*args).items()}  # type: ignore[method-assign]
    engine.add(plain("fine"))
    engine.add(replace(plain("broken"), mix={"base": 1.0, "helpful": 0.5}))
    outputs = told(engine)
    assert [one.token for one in outputs if one.id == "fine"] == expected
    (failed,) = [one for one in outputs if one.id == "broken"]
    assert failed.error is not None and "not finite" in failed.error


def test_steps_overlap_on_a_gpu_unless_told_otherwise() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert overlaps(EngineConfig(), gpu) and not overlaps(EngineConfig(), cpu)
    assert overlaps(EngineConfig(overlap=True), cpu) and not overlaps(EngineConfig(overlap=False), gpu)
    assert not overlaps(EngineConfig(speculation="auto"), gpu)

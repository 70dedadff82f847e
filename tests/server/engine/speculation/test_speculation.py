"""Guesses change how many steps an answer takes, and nothing else about it."""

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from arm_models.loading import Family, ModelSource, load_family
from server.engine import (
    ATTENTION,
    Engine,
    EngineConfig,
    SamplingParams,
    SequenceRequest,
    TokenOutput,
    register_attention,
)
from server.engine.speculation.pace import Pace
from tests.server.engine.transcript import Pairs, Run

MODES = ("rewards", "prompt", "auto")
REWARDS = ("same", "near", "far")

MakeEngine = Callable[..., Engine]
Steady = Callable[..., Pace]


@pytest.fixture(scope="module")
def kin(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Family:
    """A base; rewards: the same again, nearly the same, something else, and the opposite."""
    register_attention()
    base = make_checkpoint("llama", "kin-base", seed=1, initializer_range=0.15)

    def changed(name: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> ModelSource:
        folder = tmp_path_factory.mktemp(name) / "model"
        shutil.copytree(base, folder)
        model = AutoModelForCausalLM.from_pretrained(base)
        with torch.no_grad():
            for key, weights in model.named_parameters():
                weights.copy_(change(key, weights))
        model.save_pretrained(folder)
        return ModelSource(name, str(folder))

    generator = torch.Generator().manual_seed(5)

    def near(_: str, weights: torch.Tensor) -> torch.Tensor:
        return weights + 0.02 * torch.randn(weights.shape, generator=generator)

    def opposite(key: str, weights: torch.Tensor) -> torch.Tensor:
        return -weights if "lm_head" in key else weights

    return load_family(
        ModelSource("base", str(base)),
        [
            ModelSource("same", str(base)),
            changed("near", near),
            ModelSource("far", str(make_checkpoint("gpt2", "kin-far", seed=3))),
            changed("opposite", opposite),
        ],
        attention=ATTENTION,
    )


def weights(rng: random.Random) -> dict[str, float]:
    mix = {name: round(rng.uniform(-0.4, 1.5), 2) for name in REWARDS if rng.random() < 0.6}
    return {"base": 1.0} | mix


def requests(count: int, seed: int) -> list[SequenceRequest]:
    """All that a request can ask for, mixed; prompts of few words, so that they repeat themselves."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        prompt = [rng.choice((7, 8, 9, 10)) for _ in range(rng.randint(3, 60))]
        sampling: dict[str, Any] = {"max_tokens": rng.randint(1, 16), "seed": number}
        sampling["temperature"] = rng.choice((0.0, 0.0, 0.3, 0.7, 1.0, 1.3))
        sampling |= rng.choice(({}, {"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.1}))
        sampling |= rng.choice(
            (
                {},
                {},
                {"presence_penalty": 1.0, "frequency_penalty": 0.5},
                {"repetition_penalty": 1.3},
                {"logit_bias": {20: 4.0, 21: 4.0}},
                {"logit_bias": {20: 9.0, 21: 9.0, 22: 9.0}, "min_tokens": 10},
            )
        )
        sampling |= {"stop_token_ids": frozenset({0, *rng.sample(range(300), 8)})}
        sampling["logprobs"] = rng.choice((None, None, 3))
        made.append(
            SequenceRequest(
                f"r{number}",
                {"base": prompt, "far": prompt[:5]} | dict.fromkeys((*REWARDS[:2], "opposite"), prompt),
                weights(rng),
                SamplingParams(**sampling),
                grammar=Pairs if rng.random() < 0.15 else None,
                report=rng.random() < 0.2,
                max_kl=rng.choice((None, None, None, 0.5)),
            )
        )
    return made


def groups(asked: list[SequenceRequest], rng: random.Random) -> list[list[SequenceRequest]]:
    """The same requests, some of them asking for three answers."""
    return [
        [replace(one, id=f"{one.id}/{n}", sampling=replace(one.sampling, seed=n)) for n in range(3)]
        if rng.random() < 0.1
        else [one]
        for one in asked
    ]


def speculate(engine: Engine, asked: list[list[SequenceRequest]], rng: random.Random) -> Run:
    """Answers; some are put under other weights, some are aborted, in the middle."""
    run, left = Run(), list(asked)
    while left or engine.has_work:
        for group in left[: rng.randint(0, 20)]:
            engine.add(*group)
            left.remove(group)
        run.take(engine.step())
        for name in [one.id for one in engine._scheduler.running]:
            if rng.random() < 0.03:
                mix = weights(rng)
                run.changes.setdefault(name, []).append((engine.change(name, mix), mix))
            elif rng.random() < 0.005:
                run.take(engine.abort(name))
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


def assert_alike(ours: TokenOutput, plain: TokenOutput) -> None:
    """Equal, numbers up to rounding."""
    assert (ours.index, ours.token, ours.finish_reason) == (plain.index, plain.token, plain.finish_reason)
    if ours.logprobs or plain.logprobs:
        assert ours.logprobs and plain.logprobs
        assert ours.logprobs.logprob == pytest.approx(plain.logprobs.logprob, abs=1e-4)
        assert [one for _, one in ours.logprobs.top] == pytest.approx(
            [one for _, one in plain.logprobs.top], abs=1e-4
        )
    if ours.report or plain.report:
        assert ours.report and plain.report
        assert ours.report.kl == pytest.approx(plain.report.kl, abs=1e-4)
        assert ours.report.base_logprob == pytest.approx(plain.report.base_logprob, abs=1e-4)
        assert ours.report.rewards == pytest.approx(plain.report.rewards, abs=1e-4)
        assert (ours.report.base_top, ours.report.mix_top) == (plain.report.base_top, plain.report.mix_top)
        assert ours.report.scale == pytest.approx(plain.report.scale, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "limits",
    [{}, {"kv_tokens": 64 * 7}, {"kv_tokens": 64 * 7, "cache": "pages"}],
    ids=["room", "short of memory", "short of pages"],
)
@pytest.mark.parametrize("mode", MODES)
def test_every_answer_is_what_it_is_without(
    make_engine: MakeEngine, kin: Family, steady: Steady, mode: str, limits: dict[str, Any]
) -> None:
    count = 150 if limits else 400
    asked = groups(requests(count, seed=len(mode)), random.Random(1))
    common: dict[str, Any] = {"prefill_chunk": 16, "deterministic": True, **limits}
    engine = make_engine(kin, steady(5, seed=2), speculation=mode, max_draft=5, **common)
    ours = speculate(engine, asked, random.Random(3))
    plain = repeat(make_engine(kin, **common), asked, ours)
    assert len(ours.outputs) >= count
    for name, outputs in ours.outputs.items():
        whole = [one for one in outputs if one.finish_reason != "abort"]
        for one, other in zip(whole, plain.outputs[name], strict=len(whole) == len(outputs)):
            assert_alike(one, other)
    stats = engine.stats()
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert (stats.preemptions > 0) == bool(limits)
    assert sum(map(len, ours.changes.values())) > 20


def plain_request(
    name: str, mix: Mapping[str, float], max_tokens: int = 40, **sampling: Any
) -> SequenceRequest:
    prompts = dict.fromkeys(("base", *REWARDS, "opposite"), (5, 6, 7))
    return SequenceRequest(name, prompts, mix, SamplingParams(max_tokens, **sampling))


def steps_for(engine: Engine, *asked: SequenceRequest) -> int:
    before = engine.stats().steps
    engine.generate(asked)
    engine.check_integrity()
    return engine.stats().steps - before


def test_a_reward_that_agrees_saves_every_step_it_can(
    make_engine: MakeEngine, kin: Family, steady: Steady
) -> None:
    engine = make_engine(kin, steady(4), speculation="rewards")
    # The first token comes with the prompt; then five a step, the last of them the base's own.
    assert steps_for(engine, plain_request("a", {"base": 1.0, "same": 1.0}, 41)) == 1 + 8
    stats = engine.stats()
    assert stats.accepted_tokens == stats.draft_tokens == 32
    assert steps_for(engine, plain_request("b", {"base": 1.0, "same": 0.5, "near": 0.0}, 41)) == 1 + 8


def test_a_reward_that_says_the_opposite_saves_none(
    make_engine: MakeEngine, kin: Family, steady: Steady
) -> None:
    engine = make_engine(kin, steady(4), speculation="rewards", max_draft=4)
    assert steps_for(engine, plain_request("a", {"base": 1.0, "opposite": 0.5}, 40, temperature=0.0)) == 40
    stats = engine.stats()
    assert stats.accepted_tokens == 0
    # Four in every step but the first, and towards the end no more than are still to be drawn.
    assert stats.draft_tokens == 4 * 35 + 3 + 2 + 1


@pytest.mark.parametrize(
    "mix",
    [{"base": 1.0}, {"base": 1.0, "same": -0.5}, {"base": 1.0, "same": 1.0, "near": -1.0}, {"same": 1.0}],
)
def test_rewards_guess_only_where_they_are_weighted_towards_and_the_base_can_check(
    make_engine: MakeEngine, kin: Family, steady: Steady, mix: dict[str, float]
) -> None:
    engine = make_engine(kin, steady(4), speculation="rewards")
    assert steps_for(engine, plain_request("a", mix)) == 40
    assert engine.stats().draft_tokens == 0


def test_text_that_repeats_itself_is_guessed_without_any_reward(
    make_engine: MakeEngine, kin: Family, steady: Steady
) -> None:
    engine = make_engine(kin, steady(4), speculation="prompt")
    always = {"logit_bias": {20: 1e4}}
    # 20 20 repeats with the third token: the first three come one by one, then five a step.
    assert steps_for(engine, plain_request("a", {"base": 1.0}, 23, **always)) == 3 + 4
    assert engine.stats().accepted_tokens == 16


def test_guesses_take_no_room_that_a_response_does_not_have(
    make_engine: MakeEngine, kin: Family, steady: Steady
) -> None:
    """A row of 64 tokens becomes one of 128 when the response itself is that long, not a token earlier."""
    rows: list[dict[str, list[int]]] = []
    for mode in ("off", "rewards"):
        engine = make_engine(kin, steady(4), speculation=mode, kv_tokens=64 * 3)
        engine.add(plain_request("a", {"base": 1.0, "same": 1.0}, 100))
        used: dict[str, list[int]] = {}
        total = 3
        while engine.has_work:
            total += len(engine.step())
            for name in ("base", "same"):
                cache = engine.members[name].cache
                if "a" in cache:
                    used.setdefault(name, []).append(cache.num_blocks - cache.free_blocks)
                    # What a step has drawn is read, and needs room, in the next one.
                    assert used[name][-1] == (1 if total - 1 <= 64 else 2) or total - 1 - 64 in range(1, 6)
        rows.append(used)
    assert max(rows[0]["base"]) == max(rows[1]["base"]) == 2


def test_a_draft_of_one_never_puts_off_another(make_engine: MakeEngine, kin: Family, steady: Steady) -> None:
    asked = [
        replace(
            plain_request(f"r{n}", {"base": 1.0, "near": 1.0}, 70 + n),
            sampling=SamplingParams(70 + n, seed=n),
        )
        for n in range(8)
    ]
    counts = {}
    for mode in ("off", "rewards"):
        engine = make_engine(kin, steady(4), speculation=mode, kv_tokens=64 * 9)
        engine.generate(asked)
        engine.check_integrity()
        counts[mode] = engine.stats().preemptions
    assert counts["off"] > 0
    assert counts["rewards"] <= counts["off"]


def test_a_step_reads_no_more_than_its_budget(make_engine: MakeEngine, kin: Family, steady: Steady) -> None:
    engine = make_engine(
        kin, steady(4), speculation="rewards", max_step_tokens=20, max_sequences=8, prefill_chunk=8
    )
    forward, sizes = engine._forward, []

    def watched(chunks: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        sizes.extend(sum(len(chunk.tokens) for chunk in of_one) for of_one in chunks.values())
        return forward(chunks)

    engine._forward = watched  # type: ignore[method-assign]
    engine.generate(plain_request(f"r{n}", {"base": 1.0, "same": 1.0}, seed=n) for n in range(8))
    assert max(sizes) == 20
    assert engine.stats().accepted_tokens > 0


def test_an_answer_knows_its_guesses(make_engine: MakeEngine, kin: Family, steady: Steady) -> None:
    engine = make_engine(kin, steady(5), speculation="rewards", max_draft=5)
    for n in range(6):
        engine.add(
            plain_request(
                f"r{n}", {"base": 1.0, "near": 1.0}, seed=n, stop_token_ids=frozenset(range(0, 300, 9))
            )
        )
    last: dict[str, TokenOutput] = {}
    while engine.has_work:
        for output in engine.step():
            before = last.get(output.id)
            assert before is None or output.accepted_drafts - before.accepted_drafts in (0, 1)
            assert before is None or output.rejected_drafts - before.rejected_drafts in range(6)
            last[output.id] = output
    stats = engine.stats()
    assert any(one.finish_reason == "stop" for one in last.values())
    assert sum(one.accepted_drafts for one in last.values()) == stats.accepted_tokens > 0
    guessed = sum(one.accepted_drafts + one.rejected_drafts for one in last.values())
    assert guessed == stats.draft_tokens > stats.accepted_tokens


def test_off_guesses_nothing(make_engine: MakeEngine, kin: Family, steady: Steady) -> None:
    engine = make_engine(kin, steady(4))
    assert steps_for(engine, plain_request("a", {"base": 1.0, "same": 1.0})) == 40
    assert engine.stats().draft_tokens == 0


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"speculation": "on"}, "speculation must be one of off, rewards, prompt, auto, not 'on'"),
        ({"max_draft": 0}, "max_draft must be in 1 to 16, not 0"),
        ({"max_draft": 17}, "max_draft must be in 1 to 16, not 17"),
    ],
)
def test_limits_out_of_range_are_named(limits: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        EngineConfig(**limits)


def test_a_grammar_that_trips_ends_its_own_answer_only(
    make_engine: MakeEngine, kin: Family, steady: Steady
) -> None:
    class Trips(Pairs):
        def allowed(self) -> torch.Tensor:
            if self._count == 4:
                raise RuntimeError("too complex")
            return super().allowed()

    engine = make_engine(kin, steady(4), speculation="auto")
    engine.add(
        replace(plain_request("trips", {"base": 1.0, "same": 1.0}, logit_bias={51: 50.0}), grammar=Trips)
    )
    engine.add(plain_request("fine", {"base": 1.0, "same": 1.0}))
    outputs: dict[str, list[TokenOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    engine.check_integrity()
    assert outputs["trips"][-1].error == "the grammar failed: too complex"
    assert len(outputs["trips"]) == 5
    assert len(outputs["fine"]) == 40

"""A conditioned member is, row by row, the model with ΔW(p) in its weights, whatever the others of the batch ask for."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from arm_models.conditioned import load_conditioned, merged
from arm_models.loading import Family, ModelSource, load_family
from arm_models.loading.checkpoint import open_checkpoint
from server.engine import (
    ATTENTION,
    Engine,
    EngineThread,
    SamplingParams,
    SequenceRequest,
    TokenOutput,
    register_attention,
)
from server.engine.decoder import Decoder
from server.engine.paged_runner import PagedRunner
from server.engine.speculation.pace import Pace
from tests.server.engine.test_cuda_graph import TraceRecorder

VECTORS = ((1.0, 0.0), (0.25, 0.75), (0.0, 1.0))
MIX = {"base": 1.0, "lora": 0.4, "parm": 1.3}
PROMPTS = {name: [start, *range(40, 60)] for start, name in enumerate(MIX, 7)}
both_caches = pytest.mark.parametrize("cache", ["slabs", "pages"])
beside_others = pytest.mark.parametrize("world", ["base's backbone"], indirect=True)
"""For what depends on no architecture: everything in one forward."""


@dataclass(frozen=True)
class World:
    """A family with a conditioned member, and that one's merged models by preference vector."""

    family: Family
    merged: Mapping[tuple[float, ...], Any]

    def merged_log_probs(self, p: Sequence[float], tokens: Sequence[int]) -> torch.Tensor:
        """Of the conditioned member, by transformers alone: [len(tokens), vocab] float64."""
        with torch.no_grad():
            logits: torch.Tensor = self.merged[tuple(p)](input_ids=torch.tensor([list(tokens)])).logits[0]
        return logits.double().log_softmax(-1)


@pytest.fixture(scope="module", params=["base's backbone", "own backbone", "stock"])
def world(
    request: pytest.FixtureRequest,
    make_checkpoint: Callable[..., Path],
    make_adapter: Callable[..., Path],
    make_conditioned: Callable[..., Path],
) -> World:
    """Beside a LoRA adapter of a higher rank on the base; on a backbone of its own, on some layers only; by transformers."""
    register_attention()
    base = make_checkpoint("gpt2" if request.param == "stock" else "llama", "conditioned-base", seed=1)
    lora = make_adapter(base, "conditioned-lora", 5, r=20)
    changes: dict[str, Any] = {}
    backbone = base
    if request.param == "own backbone":
        backbone = make_checkpoint("qwen3", "conditioned-backbone", seed=2)
        changes = {"r1": 2, "r2": 3, "target_modules": ("q_proj", "v_proj", "down_proj")}
    adapter = make_conditioned(backbone, "conditioned-adapter", 4, **changes)
    sources = [
        ModelSource("parm", str(adapter), kind="conditioned"),
        ModelSource("lora", str(lora)),
    ]
    plain = AutoModelForCausalLM.from_pretrained(backbone).eval()
    load_conditioned(plain, open_checkpoint("parm", str(adapter)))
    family = load_family(ModelSource("base", str(base)), sources, attention=ATTENTION)
    return World(family, {p: merged(plain, torch.tensor(p)) for p in VECTORS})


def request(name: str, p: Sequence[float], max_tokens: int = 8, **fields: Any) -> SequenceRequest:
    sampling = SamplingParams(max_tokens, seed=len(name), logprobs=300)
    options: dict[str, Any] = {"prompts": PROMPTS, "mix": MIX} | fields
    return SequenceRequest(id=name, sampling=sampling, conditions={"parm": tuple(p)}, **options)


def run(engine: Engine, asked: Sequence[SequenceRequest]) -> dict[str, list[TokenOutput]]:
    for one in asked:
        engine.add(one)
    return finish(engine)


def finish(engine: Engine) -> dict[str, list[TokenOutput]]:
    outputs: dict[str, list[TokenOutput]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.id, []).append(output)
    engine.check_integrity()
    return outputs


def tokens_of(outputs: Sequence[TokenOutput]) -> list[int]:
    return [output.token for output in outputs]


def check(engine: Engine, world: World, one: SequenceRequest, outputs: Sequence[TokenOutput]) -> None:
    """Every distribution is the sum of the plain forwards'."""
    response = [output.token for output in outputs]
    total = torch.zeros(len(response), 300, dtype=torch.double)
    for name, weight in one.mix.items():
        tokens = [*one.prompts[name], *response]
        rows = (
            world.merged_log_probs(one.conditions[name], tokens)
            if name == "parm"
            else engine.members[name].plain_log_probs(tokens).double()
        )
        total += weight * rows[len(one.prompts[name]) - 1 : -1]
    for row, output in zip(total.log_softmax(-1), outputs, strict=True):
        assert output.logprobs is not None
        got = torch.zeros(300, dtype=torch.double)
        for token, logprob in output.logprobs.top:
            got[token] = logprob
        assert (got - row).abs().max() < 1e-4


@both_caches
def test_preferences_of_one_batch_are_the_merged_models_one_by_one(
    make_engine: Callable[..., Engine], world: World
) -> None:
    engine = make_engine(world.family, prefill_chunk=8)
    assert list(engine.members) == ["base", "parm", "lora"]
    asked = [request(f"r{number}", p) for number, p in enumerate(VECTORS)]
    outputs = run(engine, asked)
    for one in asked:
        check(engine, world, one, outputs[one.id])
    assert len({tuple(tokens_of(one)) for one in outputs.values()}) == 3


@beside_others
@pytest.mark.parametrize("cache", ["pages"])
def test_recorded_steps_take_the_preferences_of_every_row(
    make_engine: Callable[..., Engine], world: World
) -> None:
    engine = make_engine(world.family)
    for member in engine.members.values():
        assert isinstance(member.runner, PagedRunner)
        if member.runner.graphs is None:
            recorder = TraceRecorder() if isinstance(member.runner.model, Decoder) else None
            member.runner.record(4, 128, recorder)
    mix = {"base": 1.0, "parm": 0.8}
    asked = [request(f"r{number}", p, 4, mix=mix) for number, p in enumerate(VECTORS)]
    outputs = run(engine, asked)
    for one in asked:
        check(engine, world, one, outputs[one.id])


def test_adapters_of_one_backbone_run_in_one_forward(
    make_engine: Callable[..., Engine], world: World
) -> None:
    members = make_engine(world.family).members
    fused = isinstance(members["base"].runner.model, Decoder)
    on_base = members["parm"].loaded.model is members["base"].loaded.model
    assert isinstance(members["parm"].runner.model, Decoder) == fused
    assert (members["parm"].runner is members["lora"].runner) == (on_base and fused)


def test_with_deterministic_nobody_sees_the_preferences_of_others(
    make_engine: Callable[..., Engine], world: World
) -> None:
    together, alone = (make_engine(world.family, deterministic=True) for _ in range(2))
    asked = [request(f"r{number}", p) for number, p in enumerate(VECTORS)]
    expected = {one.id: run(alone, [one])[one.id] for one in asked}
    assert run(together, asked) == expected
    check(together, world, asked[1], expected["r1"])


@pytest.mark.parametrize(("cache", "overlap"), [("slabs", False), ("pages", True)])
def test_new_preferences_in_mid_answer_are_a_fresh_request_on_what_is_there(
    make_engine: Callable[..., Engine], world: World, overlap: bool
) -> None:
    engine, fresh = make_engine(world.family, overlap=overlap), make_engine(world.family)
    engine.add(request("r", VECTORS[0], 16))
    outputs = []
    while len(outputs) < 5:
        outputs += engine.step()
    at = engine.change("r", MIX, {"parm": VECTORS[1]})
    assert at == 5 + overlap
    outputs += finish(engine)["r"]
    before, rest = outputs[:at], outputs[at:]
    prompts = {name: [*prompt, *tokens_of(before)] for name, prompt in PROMPTS.items()}
    again = run(fresh, [request("r", VECTORS[1], 16 - at, prompts=prompts)])["r"]
    assert tokens_of(rest) == tokens_of(again)
    for one, other in zip(rest, again, strict=True):
        assert one.logprobs is not None and other.logprobs is not None
        assert one.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-4)


@beside_others
def test_the_engines_thread_hands_new_preferences_on(
    make_engine: Callable[..., Engine], world: World
) -> None:
    outputs: list[TokenOutput] = []
    ended = threading.Event()

    def take(more: list[TokenOutput]) -> None:
        outputs.extend(more)
        if more[-1].finish_reason is not None:
            ended.set()

    thread = EngineThread(make_engine(world.family), take, lambda _: None)
    thread.start()
    thread.add(request("r", VECTORS[0], 24))
    at = thread.change(["r"], MIX, {"parm": VECTORS[1]}).result(timeout=60)["r"]
    assert ended.wait(timeout=60) and thread.stop(timeout=60)
    tokens = tokens_of(outputs)
    prompts = {name: [*prompt, *tokens[:at]] for name, prompt in PROMPTS.items()}
    again = make_engine(world.family).generate([request("r", VECTORS[1], 24 - at, prompts=prompts)])["r"]
    assert tokens[at:] == again


@beside_others
def test_other_weights_leave_the_preferences_as_they_are(
    make_engine: Callable[..., Engine], world: World
) -> None:
    engine, steady = make_engine(world.family), make_engine(world.family)
    asked = request("r", VECTORS[1], 12)
    expected = run(steady, [asked])["r"]
    engine.add(asked)
    outputs = [*engine.step(), *engine.step()]
    engine.change_all(["r"], MIX)
    assert tokens_of([*outputs, *finish(engine)["r"]]) == tokens_of(expected)


@beside_others
def test_a_prompt_is_shared_among_equal_preferences_only(
    make_engine: Callable[..., Engine], world: World
) -> None:
    engine = make_engine(world.family, prefill_chunk=8, cpu_cache_bytes=8 << 20)
    alone = {"parm": 1.0}
    read: list[int] = []
    asked = []
    for number, p in enumerate([VECTORS[0], VECTORS[1], VECTORS[0]]):
        one = request(f"r{number}", p, 2, mix=alone)
        engine.add(one)
        asked.append((one, finish(engine)[one.id]))
        read.append(engine.members["parm"].cache.offered_blocks)
    for one, outputs in asked:
        check(engine, world, one, outputs)
    assert read[0] < read[1] == read[2]


@beside_others
@pytest.mark.parametrize("change_early", [False, True])
def test_answers_to_one_prompt_may_differ_in_their_preferences(
    make_engine: Callable[..., Engine], world: World, change_early: bool
) -> None:
    engine = make_engine(world.family, prefill_chunk=8)
    vectors = [VECTORS[0], VECTORS[0], VECTORS[2] if not change_early else VECTORS[0]]
    asked = [request(f"r{number}", p) for number, p in enumerate(vectors)]
    engine.add(*asked)
    if change_early:
        engine.step()
        engine.change("r2", MIX, {"parm": VECTORS[2]})
        asked[2] = replace(asked[2], conditions={"parm": VECTORS[2]})
    outputs = finish(engine)
    for one in asked:
        check(engine, world, one, outputs[one.id])


@beside_others
def test_a_child_copies_nothing_from_a_parent_of_other_preferences(
    make_engine: Callable[..., Engine], world: World
) -> None:
    engine = make_engine(world.family, prefill_chunk=8)
    parent = run(engine, [replace(request("parent", VECTORS[0]), hold=True)])["parent"]
    begun = tuple(tokens_of(parent))
    scores = {}
    for name, p in (("same", VECTORS[0]), ("other", VECTORS[2])):
        before = engine.stats().tokens["parm"]
        child = replace(request(name, p), begun=begun, parent="parent", scores=("parm",))
        (output,) = run(engine, [child])[name]
        assert output.scores is not None
        rows = world.merged_log_probs(p, [*PROMPTS["parm"], *begun])[len(PROMPTS["parm"]) - 1 : -1]
        expected = rows[range(len(begun)), list(begun)].sum().item()
        assert output.scores["parm"] == pytest.approx(expected, abs=1e-3)
        scores[name] = engine.stats().tokens["parm"] - before
    # Not whole: of the parent no log-probs were kept. Of others nothing but kept prompts of the same preferences is copied.
    assert scores["same"] < scores["other"] == len(PROMPTS["parm"]) + len(begun)
    engine.release(["parent"])


@beside_others
@pytest.mark.parametrize("speculation", ["rewards", "prompt"])
def test_guesses_change_no_token(
    make_engine: Callable[..., Engine], world: World, speculation: str, steady: Callable[..., Pace]
) -> None:
    plain, guessing = make_engine(world.family), make_engine(world.family, steady(3), speculation=speculation)
    asked = [request(f"r{number}", p, 16) for number, p in enumerate(VECTORS)]
    expected, got = run(plain, asked), run(guessing, asked)
    for name, outputs in expected.items():
        assert tokens_of(got[name]) == tokens_of(outputs)
    assert speculation == "prompt" or guessing.stats().draft_tokens > 0


@beside_others
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"conditions": {}}, "parm is read but has no preference vector"),
        ({"conditions": {"parm": (1.0,)}}, r"parm takes 2 finite numbers \(helpful, harmless\)"),
        ({"conditions": {"parm": (1.0, float("nan"))}}, "2 finite numbers"),
        ({"conditions": {"parm": (1.0, 0.0), "lora": (1.0,)}}, "lora takes none"),
        ({"conditions": {"parm": (1.0, 0.0), "nobody": ()}}, "no member 'nobody'"),
    ],
)
def test_preferences_that_fit_no_member_are_refused(
    make_engine: Callable[..., Engine], world: World, fields: dict[str, Any], reason: str
) -> None:
    engine = make_engine(world.family, max_sequences=2)
    with pytest.raises(ValueError, match=f"conditions: .*{reason}"):
        engine.add(replace(request("r", (1.0, 0.0)), **fields))
    engine.add(request("r", (1.0, 0.0)))
    with pytest.raises(ValueError, match=f"conditions: .*{reason}"):
        engine.change_all(["r"], MIX, fields["conditions"])

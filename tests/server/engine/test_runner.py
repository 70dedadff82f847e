"""Members in one forward give what each gives alone, however ragged their rows are; who cannot join runs beside."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from arm_models.loading import Family, ModelSource, load_family
from server.engine import (
    ATTENTION,
    Engine,
    EngineConfig,
    Member,
    SamplingParams,
    SequenceRequest,
    build_members,
    register_attention,
    release_stock,
)
from server.engine.assembly import Forward, forwards
from server.engine.attention.slab_layout import SlabLayouts
from server.engine.chunk import Chunk
from server.engine.decoder import Decoder
from server.engine.runner import Runner
from server.engine.stock import StockModel

MakePath = Callable[..., Path]


def load(*paths: Path) -> Family:
    register_attention()
    base, *rewards = [
        ModelSource("base" if number == 0 else f"r{number}", str(path)) for number, path in enumerate(paths)
    ]
    return load_family(base, rewards, attention=ATTENTION)


def same_shape(make_checkpoint: MakePath, kind: str) -> Family:
    return load(*(make_checkpoint(kind, f"stack-{kind}-{seed}", seed=seed) for seed in (1, 2, 3)))


def one_backbone(make_checkpoint: MakePath, make_adapter: MakePath, *, bare: bool = True) -> Family:
    """A backbone with three adapters of different ranks on different projections."""
    backbone = make_checkpoint("llama", "lanes-base", seed=4)
    adapters = [
        make_adapter(backbone, "all", 1, target_modules=["q_proj", "v_proj", "down_proj", "lm_head"]),
        make_adapter(backbone, "attention", 2, r=2, target_modules=["q_proj", "k_proj", "o_proj"]),
        make_adapter(backbone, "mlp", 3, r=3, use_rslora=True, target_modules=["up_proj", "gate_proj"]),
    ]
    return load(*([backbone] if bare else []), *adapters)


def forward_all(members: Sequence[Member], chunks: Mapping[str, Sequence[Chunk]]) -> dict[str, torch.Tensor]:
    """Through the one runner that all of them must have."""
    assert len({id(member.runner) for member in members}) == 1
    with torch.inference_mode():
        return members[0].runner.forward(chunks)


def check_ragged(members: Sequence[Member], rng: random.Random) -> None:
    """Contexts of all members in pieces, some members absent from some forwards; each piece's last logits are plain ones."""
    texts = {
        (member.name, owner): [rng.randrange(300) for _ in range(rng.randint(3, 150))]
        for member in members
        for owner in range(rng.randint(1, 4))
    }
    prompts = {key: rng.randint(1, len(text)) for key, text in texts.items()}
    computed = dict.fromkeys(texts, 0)
    by_name = {member.name: member for member in members}
    for (name, owner), text in texts.items():
        assert by_name[name].cache.reserve(owner, len(text))
    while any(computed[key] < len(text) for key, text in texts.items()):
        chunks: dict[str, list[Chunk]] = {}
        for key, text in texts.items():
            if computed[key] == len(text) or rng.random() < 0.3:
                continue
            start, is_prompt = computed[key], computed[key] < prompts[key]
            most = (prompts[key] if is_prompt else len(text)) - start
            size = min(most, rng.choice([1, 1, 3, 60]))
            chunks.setdefault(key[0], []).append(
                Chunk(key[1], text[start : start + size], start, is_prompt, 1)
            )
            computed[key] += size
        if not chunks:
            continue
        logits = forward_all(members, chunks)
        assert list(logits) == [member.name for member in members if member.name in chunks]
        for name, rows in logits.items():
            for row, chunk in zip(rows, chunks[name], strict=True):
                text = texts[name, int(str(chunk.owner))][: chunk.start + len(chunk.tokens)]
                plain = by_name[name].plain_log_probs(text)[-1]
                assert (row.log_softmax(-1) - plain).abs().max() < 1e-4
    for name, owner in texts:
        by_name[name].cache.free(owner)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_models_of_one_shape_run_in_one_forward(make_checkpoint: MakePath, kind: str) -> None:
    members = build_members(same_shape(make_checkpoint, kind), EngineConfig(max_sequences=8))
    rng = random.Random(1)
    for _ in range(3):
        check_ragged(members, rng)


@pytest.mark.parametrize("bare", [True, False])
def test_adapters_are_rows_of_their_backbones_forward(
    make_checkpoint: MakePath, make_adapter: MakePath, bare: bool
) -> None:
    family = one_backbone(make_checkpoint, make_adapter, bare=bare)
    members = build_members(family, EngineConfig(max_sequences=8))
    rng = random.Random(2)
    for _ in range(4):
        check_ragged(members, rng)


def test_adapters_with_equally_many_rows_go_as_one_batch(
    make_checkpoint: MakePath, make_adapter: MakePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = build_members(one_backbone(make_checkpoint, make_adapter), EngineConfig(max_sequences=8))
    seen: list[int] = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: (seen.append(len(a)), bmm(a, b))[1])
    text = [5, 6, 7, 8]
    for member in members:
        member.cache.reserve("one", len(text))
    logits = forward_all(members, {member.name: [Chunk("one", text, 0, True, 4)] for member in members})
    assert seen
    assert set(seen) == {3}
    for member in members:
        plain = member.plain_log_probs(text)
        assert (logits[member.name].log_softmax(-1) - plain).abs().max() < 1e-4


def test_adapters_in_half_precision_pass_their_self_tests(
    make_checkpoint: MakePath, make_adapter: MakePath
) -> None:
    register_attention()
    backbone = make_checkpoint("llama", "lanes-base", seed=4)
    sources = [
        ModelSource(name, str(path), dtype="bfloat16")
        for name, path in (("base", backbone), ("r1", make_adapter(backbone, "half", 1)))
    ]
    members = build_members(load_family(sources[0], sources[1:], attention=ATTENTION), EngineConfig())
    assert members[0].runner is members[1].runner


@pytest.mark.parametrize("change", [{"use_dora": True}, {"lora_bias": True}])
def test_what_is_more_than_plain_lora_runs_by_its_library(
    make_checkpoint: MakePath, make_adapter: MakePath, change: dict[str, object]
) -> None:
    backbone = make_checkpoint("llama", "lanes-base", seed=4)
    family = load(backbone, make_adapter(backbone, "more", 5, **change))
    assert all(isinstance(one.packed, StockModel) for one in forwards([family.base, *family.rewards]))
    for member in build_members(family, EngineConfig(max_sequences=4)):
        text = [random.Random(6).randrange(300) for _ in range(40)]
        with torch.inference_mode():
            assert (member.log_probs(text, 16) - member.plain_log_probs(text)).abs().max() < 1e-4


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
            "rope_theta": 10000.0,
        },
    ],
)
def test_every_kind_of_rotary_embedding(make_checkpoint: MakePath, rope: dict[str, object]) -> None:
    path = make_checkpoint("llama", f"rope-{rope['rope_type']}", seed=7, rope_parameters=rope)
    (member,) = build_members(load(path), EngineConfig(max_sequences=4))
    assert isinstance(member.runner.model, Decoder)
    text = [random.Random(8).randrange(300) for _ in range(150)]
    with torch.inference_mode():
        assert (member.log_probs(text, 50) - member.plain_log_probs(text)).abs().max() < 1e-4


@pytest.mark.parametrize("lanes", ["models", "adapters"])
def test_requests_are_answered_as_by_members_that_run_apart(
    make_checkpoint: MakePath, make_adapter: MakePath, lanes: str
) -> None:
    """Seeded requests with different weights, some 0, changed under way: same tokens, log-probs within 1e-4."""
    adapted = lanes == "adapters"
    family = one_backbone(make_checkpoint, make_adapter) if adapted else same_shape(make_checkpoint, "llama")
    config = EngineConfig(max_sequences=6, prefill_chunk=16, max_step_tokens=32)
    rng = random.Random(9)
    names = [reward.name for reward in family.rewards]
    requests = [request(number, names, rng) for number in range(14)]
    together, apart = Engine(build_members(family, config), config), Engine(alone(family), config)
    assert len({id(member.runner) for member in together.members.values()}) == 1
    assert len({id(member.runner) for member in apart.members.values()}) == len(names) + 1
    results = [answers(engine, requests, random.Random(10)) for engine in (together, apart)]
    for name, tokens in results[0].items():
        assert [token for token, _ in tokens] == [token for token, _ in results[1][name]]
        assert all(
            abs(one - other) < 1e-4 for (_, one), (_, other) in zip(tokens, results[1][name], strict=True)
        )
    together.check_integrity()


def test_the_engine_runs_each_forward_once_a_step(
    make_checkpoint: MakePath, make_adapter: MakePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []
    forward = Decoder.forward

    def counted(
        self: Decoder, tokens: torch.Tensor, positions: torch.Tensor, counts: Sequence[int], *rest: Any
    ) -> Any:
        calls.append(tuple(counts))
        return forward(self, tokens, positions, counts, *rest)

    config = EngineConfig(max_sequences=4)
    engine = Engine(build_members(one_backbone(make_checkpoint, make_adapter), config), config)
    mix = dict.fromkeys(engine.members, 0.5)
    engine.add(SequenceRequest("q", dict.fromkeys(mix, (5, 6, 7)), mix, SamplingParams(4)))
    monkeypatch.setattr(Decoder, "forward", counted)
    while engine.has_work:
        engine.step()
    assert calls == [(3, 3, 3, 3)] + [(1, 1, 1, 1)] * 3


def alone(family: Family) -> list[Member]:
    """The same models, each in a forward of its own by transformers."""
    apart = [Forward((model,), StockModel(model)) for model in (family.base, *family.rewards)]
    return [member for one in apart for member in one.members({one.models[0].name: 4096})]


def request(number: int, rewards: Sequence[str], rng: random.Random) -> SequenceRequest:
    prompt = [rng.randrange(300) for _ in range(rng.randint(1, 60))]
    mix = {"base": 1.0} | {name: rng.choice([0.0, 0.5, -0.3, 1.2]) for name in rewards}
    sampling = SamplingParams(rng.randint(1, 30), seed=number, logprobs=0)
    return SequenceRequest(f"q{number}", dict.fromkeys(mix, prompt), mix, sampling)


def answers(
    engine: Engine, requests: Sequence[SequenceRequest], rng: random.Random
) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {one.id: [] for one in requests}
    for one in requests:
        engine.add(one)
    while engine.has_work:
        for output in engine.step():
            assert output.logprobs is not None
            found[output.id].append((output.token, output.logprobs.logprob))
            if output.finish_reason is None and rng.random() < 0.1:
                weights = {name: rng.choice([0.0, 0.4, 0.9]) for name in engine.members if name != "base"}
                engine.change(output.id, {"base": 1.0} | weights)
    return found


@pytest.mark.parametrize("lanes", ["models", "adapters"])
def test_weights_that_nobody_reads_any_more_are_given_back(
    make_checkpoint: MakePath, make_adapter: MakePath, lanes: str
) -> None:
    adapted = lanes == "adapters"
    family = one_backbone(make_checkpoint, make_adapter) if adapted else same_shape(make_checkpoint, "llama")
    gpt = load(make_checkpoint("gpt2", "release-gpt2", seed=1))
    members = build_members(family, EngineConfig(max_sequences=4))
    stock = build_members(gpt, EngineConfig(max_sequences=4))
    text = [7, 8, 9, 10, 11]
    with torch.inference_mode():
        before = [member.log_probs(text, 2) for member in [*members, *stock]]
        release_stock([*members, *stock])
        after = [member.log_probs(text, 2) for member in [*members, *stock]]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    for member in members:
        linears = [part for part in member.loaded.model.modules() if isinstance(part, torch.nn.Linear)]
        assert sum(linear.weight.numel() for linear in linears) == 0
    assert stock[0].plain_log_probs(text).shape == (5, stock[0].vocab_size)


def test_padding_is_for_one_member_only(make_checkpoint: MakePath) -> None:
    family = same_shape(make_checkpoint, "llama")
    (forward,) = forwards([family.base, *family.rewards])
    members = forward.members(dict.fromkeys(("base", "r1", "r2"), 4096))
    runner = members[0].runner
    with pytest.raises(ValueError, match="only the forward of one member"):
        Runner(runner.model, runner.lanes, SlabLayouts([], torch.device("cpu")), torch.device("cpu"), 4)


def test_deterministic_stacks_give_every_request_the_bits_it_has_alone(make_checkpoint: MakePath) -> None:
    config = EngineConfig(max_sequences=8, deterministic=True, prefill_chunk=16)
    engine = Engine(build_members(same_shape(make_checkpoint, "qwen3"), config), config)
    assert isinstance(engine.members["base"].runner.model, Decoder)
    rng = random.Random(11)
    requests = [request(number, ["r1", "r2"], rng) for number in range(8)]
    together = unchanged(engine, requests)
    for one in requests:
        assert unchanged(engine, [one])[one.id] == together[one.id]


def unchanged(engine: Engine, requests: Sequence[SequenceRequest]) -> dict[str, list[tuple[int, float]]]:
    """Answers under the weights the requests came with."""
    return answers(engine, requests, _Never())


class _Never(random.Random):
    """Never lets anything happen that happens now and then."""

    def random(self) -> float:
        return 1.0

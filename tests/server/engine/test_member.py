"""Every architecture gives through the cache what transformers gives without it, however its tokens are cut."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from arm_models.errors import CheckpointError
from arm_models.loading import Family, LoadedModel, ModelSource, load_family
from server.engine import (
    ATTENTION,
    EngineConfig,
    Member,
    SelfTestError,
    build_members,
    register_attention,
)
from server.engine.assembly import forwards, kv_tokens
from server.engine.chunk import Chunk
from server.engine.decoder import Decoder
from server.engine.sampling.divergence import kl

needs_vnni = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no fast int8")

KINDS = ["llama", "qwen2", "qwen3", "mistral", "gpt2"]


@pytest.fixture
def load(make_checkpoint: Callable[..., Path]) -> Callable[..., Family]:
    def load(kind: str, **options: object) -> Family:
        register_attention()
        source = ModelSource("base", str(make_checkpoint(kind, f"member-{kind}", seed=5)), **options)  # type: ignore[arg-type]
        return load_family(source, [], attention=ATTENTION)

    return load


def lone_member(loaded: LoadedModel, max_tokens: int) -> Member:
    """A model in a forward of its own, not tested."""
    (forward,) = forwards([loaded])
    (member,) = forward.members({loaded.name: max_tokens})
    return member


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 7, 200])
def test_the_cached_forward_equals_the_plain_one(load: Callable[..., Family], kind: str, chunk: int) -> None:
    member = lone_member(load(kind).base, 4096)
    tokens = torch.randint(300, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.inference_mode():
        worst = (member.log_probs(tokens, chunk) - member.plain_log_probs(tokens)).abs().max()
    assert worst < 1e-4
    assert member.cache.free_blocks == member.cache.num_blocks


@pytest.mark.parametrize("kind", KINDS)
def test_ragged_contexts_in_one_forward_do_not_see_each_other(load: Callable[..., Family], kind: str) -> None:
    """Prompts beginning, prompts going on, single tokens and replays of several contexts, packed together."""
    member = lone_member(load(kind).base, 1 << 14)
    generator = torch.Generator().manual_seed(2)
    texts = [torch.randint(300, (length,), generator=generator).tolist() for length in (90, 40, 140, 66, 12)]
    computed, prompt = [50, 39, 60, 0, 11], [80, 20, 60, 66, 4]
    with torch.inference_mode():
        for owner, text in enumerate(texts):
            assert member.cache.reserve(owner, len(text))
            if computed[owner]:
                member.forward([Chunk(owner, text[: computed[owner]], 0, True, 0)])
        ends = [80, 40, 140, 66, 12]
        chunks = [
            Chunk(
                owner,
                text[computed[owner] : ends[owner]],
                computed[owner],
                computed[owner] < prompt[owner],
                1,
            )
            for owner, text in enumerate(texts)
        ]
        logits = member.forward(chunks).log_softmax(-1)
        for owner, text in enumerate(texts):
            expected = member.plain_log_probs(text[: ends[owner]])[-1]
            assert (logits[owner] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_passes_its_self_test(load: Callable[..., Family], dtype: str) -> None:
    (member,) = build_members(load("llama", dtype=dtype), EngineConfig())
    assert str(member.loaded.dtype) == f"torch.{dtype}"


@needs_vnni
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_int8_is_close_to_float32_and_reads_fewer_bytes(load: Callable[..., Family], kind: str) -> None:
    family = load(kind, dtype="int8")
    (member,) = build_members(family, EngineConfig(deterministic=True))
    plain = lone_member(load(kind).base, 4096)
    assert isinstance(member.runner.model, Decoder) and isinstance(plain.runner.model, Decoder)
    assert member.runner.model.nbytes < 0.6 * plain.runner.model.nbytes  # so small a matrix is padded
    tokens = torch.randint(300, (100,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.inference_mode():
        rounded, exact = member.log_probs(tokens, 16), member.plain_log_probs(tokens)
    assert 1e-5 < kl(exact, rounded).mean() < 0.02


@needs_vnni
def test_adapters_on_an_int8_backbone_stay_float32(
    make_checkpoint: Callable[..., Path], make_adapter: Callable[..., Path]
) -> None:
    register_attention()
    backbone = make_checkpoint("llama", "int8-backbone", seed=4)
    adapter = ModelSource("r", str(make_adapter(backbone, "int8-adapter", 1)), dtype="int8")
    family = load_family(ModelSource("base", str(backbone), dtype="int8"), [adapter], attention=ATTENTION)
    base, reward = build_members(family, EngineConfig())
    assert base.runner is reward.runner
    tokens = torch.randint(300, (100,), generator=torch.Generator().manual_seed(3)).tolist()
    with torch.inference_mode():
        of_base, of_reward = base.log_probs(tokens, 16), reward.log_probs(tokens, 16)
        assert kl(reward.plain_log_probs(tokens), of_reward).mean() < 0.02
        assert kl(of_base, of_reward).mean() > 0.05


@needs_vnni
def test_int8_is_refused_for_what_transformers_runs(load: Callable[..., Family]) -> None:
    with pytest.raises(
        CheckpointError, match=r"base: dtype int8 is for Llama, .* not for this GPT2LMHeadModel"
    ):
        build_members(load("gpt2", dtype="int8"), EngineConfig())


def test_a_model_that_fails_its_self_test_is_not_served(load: Callable[..., Family]) -> None:
    member = lone_member(load("llama").base, 4096)
    plain = member.plain_log_probs
    member.plain_log_probs = lambda tokens: plain(list(tokens)[::-1])  # type: ignore[method-assign]
    with pytest.raises(SelfTestError, match="base: probabilities through the cache differ"):
        member.self_test()


@pytest.mark.parametrize("threads", [1, 2])
def test_batch_invariance_is_checked_where_it_is_promised(load: Callable[..., Family], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        family = load("gpt2")  # by transformers' forward, whose products need padding
        build_members(family, EngineConfig(deterministic=True))
        member = lone_member(family.base, 4096)
        with pytest.raises(SelfTestError, match="not bit-equal"):
            member.check_batch_invariance()
    finally:
        torch.set_num_threads(before)


def test_cache_sizes_follow_memory_and_limits(family: Family) -> None:
    models = [family.base, *family.rewards]
    assert kv_tokens(models, family.base, EngineConfig(kv_tokens=640)) == 640
    everything = kv_tokens(models, family.base, EngineConfig(max_sequences=8))
    assert everything == 8 * 256
    tight = EngineConfig(cpu_cache_bytes=1 << 20)
    per_token = sum(2 * m.num_layers * m.num_kv_heads * m.head_dim * 4 for m in models)
    assert {kv_tokens(models, model, tight) for model in models} == {(1 << 20) // per_token}

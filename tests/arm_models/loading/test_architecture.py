"""The engine's attention stands in only where that is right; everything else is refused with its reason."""

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from arm_models.loading.architecture import AttentionShape, Unsupported, inspect_config, inspect_model

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def config(name: str, **changes: Any) -> Any:
    return getattr(transformers, f"{name}Config")(**SIZES | changes)


def model(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()


def refusal(config: Any) -> str:
    with pytest.raises(Unsupported) as error:
        inspect_config(config)
    return str(error.value)


DENSE = [
    "Llama",
    "Qwen2",
    "Qwen3",
    "Gemma",
    "Cohere",
    "Granite",
    "Olmo2",
    "Phi",
    "Starcoder2",
    "SmolLM3",
    "Glm4",
]


@pytest.mark.parametrize("name", DENSE)
def test_plain_decoders_are_honoured(name: str) -> None:
    expected = AttentionShape(num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8)
    changes = {"layer_types": ["full_attention"] * 2} if name in ("Qwen2", "Qwen3") else {}
    settings = config(name, **changes)
    assert inspect_config(settings) == expected
    assert inspect_model(model(settings), "sdpa") == expected


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # transformers 5.17
@pytest.mark.parametrize("name", ["GPT2", "GPTNeoX", "OPT", "GPTBigCode"])
def test_gpt2_and_its_like_are_honoured(name: str) -> None:
    sizes = {"ffn_dim": 32, "word_embed_proj_dim": 32} if name == "OPT" else {}
    settings = config(name, **sizes)
    shape = inspect_config(settings)
    assert shape is not None
    assert (shape.num_layers, shape.num_heads, shape.head_dim) == (2, 4, 8)
    assert inspect_model(model(settings), "sdpa") == shape


@pytest.mark.parametrize("name", ["Mixtral", "Qwen3Moe"])
def test_experts_are_honoured_once_there_are_weights_to_route_by(name: str) -> None:
    experts = {
        "num_local_experts": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    }
    settings = config(name, **experts, sliding_window=None)
    shape = AttentionShape(num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8)
    assert inspect_config(settings) in (None, shape)
    assert inspect_model(model(settings), "sdpa") == shape


def test_mistral_only_without_its_window() -> None:
    assert inspect_config(config("Mistral", sliding_window=None)) is not None
    assert "sliding_window" in refusal(config("Mistral", sliding_window=16))


def test_qwen2_with_sliding_layers() -> None:
    sliding = config("Qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=1)
    assert "layers of kind sliding_attention" in refusal(sliding)


def test_chunked_attention_which_only_a_mask_would_show() -> None:
    assert "chunked_attention" in refusal(config("Llama4Text", layer_types=["chunked_attention"] * 2))


def test_gemma2_with_its_soft_cap() -> None:
    assert "softcap" in refusal(config("Gemma2", layer_types=["full_attention"] * 2, sliding_window=None))


def test_gpt_oss_with_its_sinks() -> None:
    assert "s_aux" in refusal(config("GptOss", layer_types=["full_attention"] * 2, num_local_experts=4))


@pytest.mark.parametrize("name", ["Bart", "T5", "Marian"])
def test_encoder_decoders(name: str) -> None:
    assert "encoder-decoder" in refusal(getattr(transformers, f"{name}Config")())


def test_a_model_that_looks_ahead() -> None:
    assert "not causal" in refusal(config("Bert"))


def test_a_model_with_eyes() -> None:
    assert "more than a text decoder" in refusal(transformers.Gemma3Config())


def test_a_state_space_model() -> None:
    assert "mamba" in refusal(transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=40))


def test_a_hybrid_of_attention_and_linear_attention() -> None:
    hybrid = config("Qwen3Next", layer_types=["linear_attention", "full_attention"])
    assert "layers of kind linear_attention" in refusal(hybrid)


def test_alibi_has_no_positions_to_be_told() -> None:
    assert "max_position_embeddings" in refusal(transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4))


@pytest.mark.parametrize("name", ["GPTJ", "GPTNeo", "CodeGen"])
def test_a_model_that_chooses_its_attention_itself(name: str) -> None:
    assert "attention" in refusal(getattr(transformers, f"{name}Config")())


def test_latent_attention() -> None:
    sizes = {
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    }
    settings = config("DeepseekV3", **sizes, num_key_value_heads=4, first_k_dense_replace=2)
    assert "unlike shapes" in refusal(settings)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_change_with_the_length(kind: str) -> None:
    scaling = {
        "rope_type": kind,
        "rope_theta": 10000.0,
        "factor": 2.0,
        "original_max_position_embeddings": 32,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0] * 4,
    }
    wanted = (
        scaling
        if kind == "longrope"
        else {key: scaling[key] for key in ("rope_type", "rope_theta", "factor")}
    )
    assert f"({kind}) changes with the length" in refusal(config("Llama", rope_parameters=wanted))


def test_quantized_weights() -> None:
    quantized = config("Llama")
    quantized.quantization_config = {"quant_method": "gptq", "bits": 4}
    assert "quantized" in refusal(quantized)


def test_tokens_that_meet_outside_attention() -> None:
    """Falcon-H1 runs a state space beside every attention: the attention alone looks like any other."""
    sizes = {
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 4,
    }
    hybrid = model(config("FalconH1", **sizes))
    with pytest.raises(Unsupported, match="meet outside attention"):
        inspect_model(hybrid, "sdpa")


def test_positions_the_model_makes_itself() -> None:
    settings = config("Llama")
    deaf = model(settings)
    plain = deaf.model.forward
    deaf.model.forward = lambda *args, **kwargs: plain(*args, **kwargs | {"position_ids": None})
    with pytest.raises(Unsupported, match="its own positions"):
        inspect_model(deaf, "sdpa")


def test_weights_that_are_not_finite() -> None:
    broken = model(config("Llama"))
    with torch.no_grad():
        broken.lm_head.weight[3, 3] = float("nan")
    with pytest.raises(Unsupported, match="not finite"):
        inspect_model(broken, "sdpa")


def test_the_model_is_left_with_the_attention_asked_for() -> None:
    loaded = model(config("Llama"))
    inspect_model(loaded, "eager")
    assert loaded.config._attn_implementation == "eager"


def test_the_config_that_was_inspected_is_untouched() -> None:
    settings = config("Llama")
    before = settings.to_dict()
    inspect_config(settings)
    assert settings.to_dict() == before
    assert settings._attn_implementation != "genarm_recorder"

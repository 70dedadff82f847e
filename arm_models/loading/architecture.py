"""Can the engine's attention stand in for this model's own? A forward that records it tells.

The engine packs pieces of many contexts into one row and brings its own causal attention over its own cache.
That is right only for a decoder whose tokens meet in attention alone, in every layer, at the positions it is
given, without windows, soft caps, sinks or biases. Names of architectures say little about that, so a
recording attention function is switched in and looks at what the model passes.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from arm_models.loading.scalar import scalar_from_config

RECORDER = "genarm_recorder"
#: Passed by some architectures and without meaning for an attention function that has its own cache and mask.
HARMLESS = frozenset(
    {
        "recording",
        "position_ids",
        "position_embeddings",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "logits_to_keep",
        "is_causal",
    }
)
#: Tokens 1-2 and 4-5 are the same at the same positions after different neighbours.
TOKENS = (3, 1, 2, 4, 1, 2)
POSITIONS = (0, 1, 2, 0, 1, 2)
KEPT = (1, 2, 4, 5)


class Unsupported(Exception):
    """The architecture needs something the engine's attention does not do; the message says what."""


@dataclass(frozen=True)
class AttentionShape:
    """What the engine's cache has to know: layers and heads, one size for all layers."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass
class Recording:
    """What one forward passed to attention: layer indices in order and the shapes seen."""

    layers: list[int] = field(default_factory=list)
    shapes: set[AttentionShape] = field(default_factory=set)
    shifted: float = 0.0

    def add(self, module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """q: [1, heads, tokens, dim]; k, v: [1, kv_heads, tokens, dim]."""
        if k.shape != v.shape or q.shape[-1] != k.shape[-1] or q.shape[2] != k.shape[2]:
            raise Unsupported(
                f"its attention uses unlike shapes (queries {list(q.shape)}, keys {list(k.shape)}, "
                f"values {list(v.shape)}), as latent attention does"
            )
        self.layers.append(int(getattr(module, "layer_idx", -1)))
        self.shapes.add(AttentionShape(0, q.shape[1], k.shape[1], k.shape[3]))
        if not k.is_meta:
            scale = k.abs().max().clamp_min(1e-6)
            self.shifted = max(self.shifted, float((k[:, :, 1:3] - k[:, :, 4:6]).abs().max() / scale))


def check_config(config: PretrainedConfig) -> None:
    """Raises Unsupported for what the config gives away: not a decoder, quantized, length-dependent rope."""
    if getattr(config, "is_encoder_decoder", False):
        raise Unsupported(f"{config.model_type} is an encoder-decoder; only decoders can be mixed")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise Unsupported(f"{config.model_type} has no causal language model")
    if config.get_text_config() is not config:
        raise Unsupported(f"{config.model_type} is more than a text decoder (it has parts for other inputs)")
    if getattr(config, "quantization_config", None) is not None:
        raise Unsupported("its weights are quantized; bfloat16, float16 and float32 are read")
    if not isinstance(getattr(config, "max_position_embeddings", None), int):
        raise Unsupported(f"{config.model_type} names no max_position_embeddings")
    rope = str((getattr(config, "rope_parameters", None) or {}).get("rope_type", "default"))
    if "dynamic" in rope or rope == "longrope":
        raise Unsupported(f"its rotary embedding ({rope}) changes with the length of the context")
    # Some of these are made by masks alone, which the recorder cannot see.
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if kinds:
        raise Unsupported(
            f"{config.model_type} has layers of kind {kinds[0]}; only full attention is honoured"
        )


def inspect_config(config: PretrainedConfig, *, scalar: bool = False) -> AttentionShape | None:
    """The attention of a model of this config, without its weights; None if its forward needs real ones.

    scalar: with a scalar head, not one of a language model.
    Raises Unsupported naming what the engine's attention would not honour.
    """
    check_config(config)
    _register()
    try:
        with torch.device("meta"):
            own = copy.deepcopy(config)
            model: Any = (
                scalar_from_config(own, RECORDER)
                if scalar
                else AutoModelForCausalLM.from_config(
                    own, attn_implementation=RECORDER, trust_remote_code=False
                )
            )
    except Exception as error:  # whatever an architecture's own code raises on a config it cannot build
        reason = "it cannot be given another attention" if RECORDER in str(error) else "it cannot be built"
        raise Unsupported(f"{config.model_type}: {reason}: {error}") from error
    try:
        return _inspect(model.eval())[0]
    except (NotImplementedError, RuntimeError):
        return None  # data-dependent code, such as the routing of experts, cannot run without data


def declared_shape(config: PretrainedConfig) -> AttentionShape:
    """The attention as a config names it, which its model need not keep to."""
    heads = int(config.num_attention_heads)
    return AttentionShape(
        num_layers=int(config.num_hidden_layers),
        num_heads=heads,
        num_kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
    )


def inspect_model(model: Any, attention: str) -> AttentionShape:
    """The attention of a loaded model, by one forward of six tokens; leaves it switched to ``attention``.

    Raises Unsupported as ``inspect_config`` does, and where tokens meet outside attention, positions are not
    the given ones, or logits are not finite.
    """
    _register()
    with _switched(model, attention):
        try:
            shape, recording, logits = _inspect(model)
        except RuntimeError as error:
            raise Unsupported(f"its forward fails: {error}") from error
    if not bool(torch.isfinite(logits).all()):
        raise Unsupported("its logits are not finite (broken weights, or a dtype too narrow for them)")
    tolerance = 1e-4 if logits.dtype == torch.float32 else 0.05
    leak = float((logits[:2] - logits[2:]).abs().max() / logits.abs().max().clamp_min(1e-6))
    if leak > tolerance or recording.shifted > tolerance:
        raise Unsupported(
            "its tokens meet outside attention (state space, convolution, linear attention) or it makes "
            "its own positions"
        )
    return shape


def _inspect(model: Any) -> tuple[AttentionShape, Recording, torch.Tensor]:
    config = model.config
    if config._attn_implementation != RECORDER:
        raise Unsupported(f"{config.model_type} ignores the attention switch")
    recording = Recording()
    logits = _forward(model, recording)
    _check_layers(config, recording)
    (shape,) = recording.shapes
    return (
        AttentionShape(len(recording.layers), shape.num_heads, shape.num_kv_heads, shape.head_dim),
        recording,
        logits,
    )


def _forward(model: Any, recording: Recording) -> torch.Tensor:
    """Logits [4, rows of the head] behind the KEPT tokens, called as the engine calls a member."""
    device = model.get_input_embeddings().weight.device
    with torch.no_grad():
        try:
            output = model(
                input_ids=torch.tensor([TOKENS], device=device),
                position_ids=torch.tensor([POSITIONS], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(KEPT, device=device),
                recording=recording,
            )
        except (TypeError, AttributeError, ValueError) as error:
            raise Unsupported(
                f"{model.config.model_type} cannot be called as the engine calls a model: {error}"
            ) from error
    logits: torch.Tensor = output.logits[0]
    if logits.shape[0] != len(KEPT):
        raise Unsupported(f"{model.config.model_type} does not honour logits_to_keep")
    return logits


def _check_layers(config: PretrainedConfig, recording: Recording) -> None:
    if not recording.layers:
        raise Unsupported(
            f"{config.model_type} does not use the attention switched in, or hands it no metadata"
        )
    count = int(config.num_hidden_layers)
    if recording.layers != list(range(count)):
        without = sorted(set(range(count)) - set(recording.layers))
        detail = (
            f"layers {without[:4]} do without" if without else f"layers call it as {recording.layers[:8]}"
        )
        raise Unsupported(
            f"{config.model_type} does not use attention once in each of {count} layers: {detail}"
        )
    if len(recording.shapes) != 1:
        raise Unsupported(f"{config.model_type} has attention of different shapes in different layers")


def _register() -> None:
    """Make the recorder known to transformers (its own registry; registering again changes nothing)."""
    AttentionInterface.register(RECORDER, _record)


def _record(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,  # noqa: ARG001  the name is part of the interface
    dropout: float = 0.0,
    **metadata: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in which every token sees only itself: [1, tokens, heads, dim]. Records what it was given."""
    passed = metadata | {"attention_mask": attention_mask, "dropout": dropout or None}
    for name, argument in passed.items():
        if name not in HARMLESS and argument is not None and argument is not False:
            raise Unsupported(f"its attention passes {name}, which the engine does not honour")
    if not getattr(module, "is_causal", True) or metadata.get("is_causal") is False:
        raise Unsupported("its attention also looks ahead (it is not causal)")
    recording = metadata.get("recording")
    if isinstance(recording, Recording):
        recording.add(module, query, key, value)
    groups = query.shape[1] // value.shape[1]
    return value.repeat_interleave(groups, dim=1).transpose(1, 2).contiguous(), None


@contextmanager
def _switched(model: Any, attention: str) -> Iterator[None]:
    model.set_attn_implementation(RECORDER)
    try:
        yield
    finally:
        model.set_attn_implementation(attention)

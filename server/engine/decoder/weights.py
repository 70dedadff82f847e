"""A model of transformers, taken apart into what the fused forward needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MistralForCausalLM,
    MistralForSequenceClassification,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

from arm_models.loading.scalar import ScalarModel
from server.engine.decoder.projection import Projection, project

KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
"""Models whose forward is: embed; per layer norm, rotary attention, norm, gated MLP, each added to the residual; norm; head."""

SCALAR = (
    LlamaForSequenceClassification,
    MistralForSequenceClassification,
    Qwen2ForSequenceClassification,
    Qwen3ForSequenceClassification,
)
"""The same below a head of one row, each in a :class:`~arm_models.loading.scalar.ScalarModel`."""

GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""A layer's projections; those of one group read the same input and are one product."""


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What models must have in common to run in one forward.

    ``rotary`` and ``activation`` are texts that are equal where the functions are. ``dtype`` is that of the weights.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    norm_eps: float
    head_norms: bool
    scale: float
    activation: str
    rotary: str
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer: norms [hidden], those of query and key heads [head_dim] or None, and its projections by :data:`GROUPS`."""

    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    query_norm: torch.Tensor | None
    key_norm: torch.Tensor | None
    projections: dict[str, Projection]


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All of a model. ``embedding`` [vocab, hidden]; ``rotary`` and ``activation`` are the model's own modules."""

    shape: DecoderShape
    embedding: torch.Tensor
    layers: tuple[LayerWeights, ...]
    norm: torch.Tensor
    head: Projection
    rotary: Any
    activation: Any

    @property
    def nbytes(self) -> int:
        """Bytes of everything that a step reads: all projections and norms, not the embedding."""
        held = sum(part.nbytes for layer in self.layers for part in layer.projections.values())
        norms = sum(layer.attention_norm.nbytes + layer.mlp_norm.nbytes for layer in self.layers)
        return held + norms + self.norm.nbytes + self.head.nbytes


def decoder_shape(model: Any) -> DecoderShape | None:
    """The shape of a model whose forward is known here, or None. Adapters on the model's layers do not matter."""
    known, stock = (SCALAR, model.classifier) if isinstance(model, ScalarModel) else (KNOWN, model)
    if type(stock) not in known:
        return None
    config, layers = model.config, model.model.layers
    first = layers[0]
    attention = first.self_attn
    device = model.get_input_embeddings().weight.device
    rope = dict(sorted((config.rope_parameters or {}).items()))
    rotary = f"{rope} {getattr(config, 'partial_rotary_factor', None)}"
    if model.model.rotary_emb.inv_freq.shape[0] * 2 != attention.head_dim:
        return None  # turns a part of each head only
    heads = _plain(attention.q_proj).out_features // attention.head_dim
    return DecoderShape(
        layers=len(layers),
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=_plain(attention.k_proj).out_features // attention.head_dim,
        head_dim=attention.head_dim,
        intermediate=_plain(first.mlp.gate_proj).out_features,
        norm_eps=float(first.input_layernorm.variance_epsilon),
        head_norms=hasattr(attention, "q_norm"),
        scale=float(attention.scaling),
        activation=str(config.hidden_act),
        rotary=rotary,
        dtype=_plain(attention.q_proj).weight.dtype,
        device=device,
    )


def take_apart(model: Any, vocab_size: int, *, quantize: bool = False) -> ModelWeights | None:
    """The weights of ``model`` with a head for ``vocab_size`` tokens; None where :func:`decoder_shape` is.

    ``quantize``: its projections in 8 bits, as :func:`project` makes them.
    """
    shape = decoder_shape(model)
    if shape is None:
        return None
    inner = model.model
    head = _plain(model.lm_head)
    bias = None if head.bias is None else head.bias[:vocab_size]
    return ModelWeights(
        shape=shape,
        embedding=inner.embed_tokens.weight.data,
        layers=tuple(_layer(layer, quantize=quantize) for layer in inner.layers),
        norm=inner.norm.weight.data,
        # A head of one row costs nothing, and 8 bits would be felt in every value.
        head=project(
            [head.weight.data[:vocab_size]], [bias], quantize=quantize and not isinstance(model, ScalarModel)
        ),
        rotary=inner.rotary_emb,
        activation=inner.layers[0].mlp.act_fn,
    )


def _layer(layer: Any, *, quantize: bool) -> LayerWeights:
    attention = layer.self_attn
    return LayerWeights(
        attention_norm=layer.input_layernorm.weight.data,
        mlp_norm=layer.post_attention_layernorm.weight.data,
        query_norm=attention.q_norm.weight.data if hasattr(attention, "q_norm") else None,
        key_norm=attention.k_norm.weight.data if hasattr(attention, "k_norm") else None,
        projections={
            name: _fused([_plain(layer.get_submodule(path)) for path in paths], quantize=quantize)
            for name, paths in GROUPS.items()
        },
    )


def _fused(linears: Sequence[Any], *, quantize: bool) -> Projection:
    weights = [linear.weight.data for linear in linears]
    biases = [None if linear.bias is None else linear.bias.data for linear in linears]
    return project(weights, biases, quantize=quantize)


def _plain(module: Any) -> Any:
    """A linear layer without the adapters around it."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    return module

"""The engine's attention, hooked into stock transformers models."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface

from server.engine.attention.attention_layout import AttentionLayout

ATTENTION = "genarm_cached"
"""Name under which the hook is registered; pass it to ``load_family`` as ``attention``."""

UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Keyword arguments that change what attention means and that the hook does not honour."""


def cached_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  (transformers passes it; the layout has the masks)
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001
    *,
    cache_layout: AttentionLayout | None = None,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """The attention function that transformers calls in every layer.

    Args:
        query: [1, heads, tokens, head_dim], positions already applied.
        key, value: [1, kv_heads, tokens, head_dim].
        cache_layout: what the tokens are; handed through the model's forward.

    Returns:
        [1, tokens, heads, head_dim], and no attention weights.

    Raises:
        ValueError: no layout was passed, or the model wants attention that is not plain and causal.
    """
    if cache_layout is None:
        raise ValueError("this model runs inside the engine only: its attention reads a cache layout")
    for name in UNSUPPORTED:
        if options.get(name) is not None:
            raise ValueError(f"attention with {name} is not supported")
    layer: int = module.layer_idx  # type: ignore[assignment]
    cache_layout.write(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return cache_layout.attend(layer, query[0].transpose(0, 1), scale)[None], None


def register_attention() -> str:
    """Make :data:`ATTENTION` known to transformers and return its name. No mask function: the layout has the masks."""
    AttentionInterface.register(ATTENTION, cached_attention)
    return ATTENTION


@contextmanager
def stock_attention(model: torch.nn.Module) -> Iterator[None]:
    """While it lasts, ``model`` computes attention as transformers does without the engine."""
    configs: dict[int, Any] = {
        id(part.config): part.config for part in model.modules() if hasattr(part, "config")
    }
    hooked = [config for config in configs.values() if config._attn_implementation == ATTENTION]
    for config in hooked:
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        for config in hooked:
            config._attn_implementation = ATTENTION

"""The shapes of the demo's models: stock Llama code, so that any engine that serves Llama serves them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

MAX_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """Width and depth of a Llama decoder with grouped-query attention; ``tied``: one matrix embeds and predicts."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    tied: bool


# Untied embeddings hold parameters that cost no time: two cores can afford a base of 4 M this way.
BASE = Shape(layers=4, hidden=256, intermediate=512, heads=4, kv_heads=2, tied=False)
REWARD = Shape(layers=4, hidden=128, intermediate=384, heads=4, kv_heads=2, tied=True)
TINY = Shape(layers=1, hidden=32, intermediate=64, heads=2, kv_heads=1, tied=True)


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A fresh float32 model of ``shape`` whose vocabulary, eos and padding are the tokenizer's."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.do_sample = True
    return model

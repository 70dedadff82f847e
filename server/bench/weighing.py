"""What one decode step has to read and to compute, from the weights as they were loaded."""

from dataclasses import dataclass
from typing import Any

import torch

from arm_models.loading import Family, LoadedModel


@dataclass(frozen=True, slots=True)
class Load:
    """Of one decode step: ``bytes`` that are read once, floating-point operations."""

    bytes: int
    flops: int

    def __add__(self, other: "Load") -> "Load":
        return Load(self.bytes + other.bytes, self.flops + other.flops)


def step_load(family: Family, batch: int, context: int) -> Load:
    """Every member of ``family`` reads one more token of ``batch`` contexts of ``context`` tokens.

    Weights are read once, a backbone that several members share too; of an embedding, the rows of the tokens; of the caches,
    every key and value. Each multiply-add of a matrix product counts two operations; attention reads ``context`` keys and values.
    """
    members = (family.base, *family.rewards)
    weights = {id(weight): weight for member in members for weight in _weights(member)}
    load = Load(sum(weight.numel() * weight.element_size() for weight in weights.values()), 0)
    for member in members:
        load += _own(member, batch, context)
    return load


def _own(member: LoadedModel, batch: int, context: int) -> Load:
    """What a member does for its own contexts, whoever it shares weights with."""
    item = member.dtype.itemsize
    model: Any = member.model
    embedding = model.get_input_embeddings().weight.shape[1] * item
    attention = 4 * member.num_layers * member.num_heads * member.head_dim * context
    products = 2 * sum(weight.numel() for weight in _weights(member) if weight.ndim == 2)
    return Load(batch * (_per_token(member) * context + embedding), batch * (products + attention))


def _weights(member: LoadedModel) -> list[torch.Tensor]:
    """All that a member's forward reads: its own and its backbone's, the head even where it is the embedding too."""
    model: Any = member.model
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    return [
        weight
        for name, weight in model.named_parameters()
        if (weight is not embedding or weight is head)
        and (".lora_" not in name or f".{member.adapter}." in name)
    ]


def cache_bytes(family: Family, context: int) -> int:
    """Keys and values that all members keep of one response with ``context`` tokens."""
    return context * sum(_per_token(member) for member in (family.base, *family.rewards))


def _per_token(member: LoadedModel) -> int:
    return member.num_layers * 2 * member.num_kv_heads * member.head_dim * member.dtype.itemsize

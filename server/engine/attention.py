"""Attention of packed tokens over the cache, hooked into stock transformers models.

A member's forward gets all tokens of a step in one row, ``[1, tokens]``: prompt chunks of some contexts, single response
tokens of others. :class:`Layout` says which slice of that row is what; the hook writes the new keys and values to the cache
and attends part by part.

Two kinds of part, and the rule behind them: *a token's arithmetic depends on its own position only*. Prompt tokens are
computed chunk by chunk on a fixed grid; response tokens are single queries, whether they are decoded one a step or replayed
many at once (after preemption, or by a member whose weight has just left 0).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from server.engine.kv_cache import Row, Slab, capacity_for

ATTENTION = "genarm_cached"
"""Name under which the hook is registered; pass it to ``load_family`` as ``attention``."""

UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Keyword arguments that change what attention means and that the hook does not honour."""


_KeysValues = tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Queries:
    """A slice of the packed tokens, and the keys and values over which it attends.

    ``keys``, ``values``: per layer, [rows, kv_heads, length, head_dim] views of a slab. ``mask`` is additive,
    [rows, 1, queries, length]. Prompt chunk: one row, many queries. Single tokens: one query a row; ``where`` places them when
    not every row of the span has one.
    """

    start: int
    stop: int
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    where: torch.Tensor | None = None

    def attend(self, layer: int, query: torch.Tensor, scale: float | None) -> torch.Tensor:
        """``query`` [tokens, heads, head_dim] of this slice → the same shape."""
        keys, values = self.keys[layer], self.values[layer]
        groups = query.shape[1] // keys.shape[1]
        if self.mask.shape[2] > 1:
            return self._attend_chunk(query, keys, values, groups, scale)
        if self.where is not None:
            query = query.new_zeros(keys.shape[0], *query.shape[1:]).index_copy_(0, self.where, query)
        # Query heads that share a key head become queries of that head: no repeated keys.
        grouped = query.reshape(query.shape[0], -1, groups, query.shape[2])
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=self.mask, scale=scale)
        out = out.flatten(1, 2)
        return out if self.where is None else out.index_select(0, self.where)

    def _attend_chunk(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, groups: int, scale: float | None
    ) -> torch.Tensor:
        tokens, heads, width = query.shape
        grouped = query.transpose(0, 1).reshape(1, heads // groups, groups * tokens, width)
        mask = self.mask if groups == 1 else self.mask.repeat(1, 1, groups, 1)
        out = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
        return out.reshape(heads, tokens, width).transpose(0, 1)


@dataclass(frozen=True, slots=True)
class Write:
    """Where packed tokens put their keys and values.

    ``storage``: per layer, the slab as [2 * rows * kv_heads * capacity, head_dim]; ``places`` [2 * kv_heads * tokens]: which of
    its lines the keys and values go to; ``tokens``: which of the packed tokens, a slice where they lie side by side.
    """

    storage: tuple[torch.Tensor, ...]
    tokens: torch.Tensor | slice
    places: torch.Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """What the packed tokens of one forward are. The last ``padding`` tokens belong to no part."""

    tokens: int
    padding: int
    writes: tuple[Write, ...]
    parts: tuple[Queries, ...]

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store ``key`` and ``value`` [kv_heads, tokens, head_dim] of one layer."""
        both = torch.stack((key, value))
        for write in self.writes:
            write.storage[layer].index_copy_(0, write.places, both[:, :, write.tokens].flatten(0, 2))

    def attend(self, layer: int, query: torch.Tensor, scale: float | None) -> torch.Tensor:
        """``query`` [tokens, heads, head_dim] → the same shape; 0 for padding."""
        outputs = [part.attend(layer, query[part.start : part.stop], scale) for part in self.parts]
        if self.padding:
            outputs.append(query.new_zeros(self.padding, *query.shape[1:]))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one context: ``count`` tokens from position ``start``, in the cache at ``row``."""

    row: Row
    start: int
    count: int
    is_prompt: bool


def lay_out(
    spans: Sequence[Span], dtype: torch.dtype, device: torch.device, multiple: int = 1
) -> tuple[Layout, list[int]]:
    """Pack spans into one row of tokens.

    Single tokens of one slab come first and side by side, in row order; then replays, then prompt chunks, then
    padding up to a multiple of ``multiple`` tokens.

    Returns:
        the layout, and for each span the index of its first token in the packed row.
    """
    order = sorted(range(len(spans)), key=lambda i: _packing_key(spans[i]))
    offsets = [0] * len(spans)
    total = 0
    for i in order:
        offsets[i] = total
        total += spans[i].count
    singles = [i for i in order if _is_single(spans[i])]
    parts: list[Queries] = []
    for group in _by_slab(spans, singles):
        parts.append(_single_tokens([spans[i] for i in group], offsets[group[0]], dtype, device))
    for i in order[len(singles) :]:
        build = _prompt_chunk if spans[i].is_prompt else _replay
        parts.extend(build(spans[i], offsets[i], dtype, device))
    padding = -total % multiple
    layout = Layout(total + padding, padding, _writes(spans, offsets, device), tuple(parts))
    return layout, offsets


def _is_single(span: Span) -> bool:
    return span.count == 1 and span.row.slab.capacity == capacity_for(span.start + 1)


def _packing_key(span: Span) -> tuple[int, int, int]:
    kind = 0 if _is_single(span) else 2 if span.is_prompt else 1
    return kind, span.row.slab.capacity, span.row.index


def _by_slab(spans: Sequence[Span], singles: list[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for i in singles:
        groups.setdefault(spans[i].row.slab.capacity, []).append(i)
    return list(groups.values())


def _lengths_mask(
    lengths: Sequence[int], length: int, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """[len(lengths), length] additive: 0 where position < lengths[i], -inf elsewhere."""
    allowed = torch.arange(length, device=device) < torch.tensor(lengths, device=device)[:, None]
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill_(~allowed, float("-inf"))


def _rows(slab: Slab, first: int, rows: int, length: int) -> _KeysValues:
    """Keys and values per layer, [rows, kv_heads, length, head_dim] views of ``rows`` rows of a slab."""
    both = slab.data[:, :, first : first + rows, :, :length]
    return both[:, 0].unbind(), both[:, 1].unbind()


def _single_tokens(group: list[Span], start: int, dtype: torch.dtype, device: torch.device) -> Queries:
    slab = group[0].row.slab
    rows = [span.row.index for span in group]
    first, count = rows[0], rows[-1] - rows[0] + 1
    # Rows of the span without a token this step attend to one position and are thrown away.
    lengths = [1] * count
    for span in group:
        lengths[span.row.index - first] = span.start + 1
    mask = _lengths_mask(lengths, slab.capacity, dtype, device)[:, None, None]
    where = None if count == len(rows) else torch.tensor([row - first for row in rows], device=device)
    return Queries(start, start + len(group), *_rows(slab, first, count, slab.capacity), mask, where)


def _replay(span: Span, offset: int, dtype: torch.dtype, device: torch.device) -> list[Queries]:
    """Response tokens computed again, or late: the same single queries, grouped by the length they attend over."""
    parts: list[Queries] = []
    position, end = span.start, span.start + span.count
    while position < end:
        length = capacity_for(position + 1)
        stop = min(end, length)
        lengths = list(range(position + 1, stop + 1))
        mask = _lengths_mask(lengths, length, dtype, device)[:, None, None]
        keys, values = _rows(span.row.slab, span.row.index, 1, length)
        begin = offset + position - span.start
        parts.append(
            Queries(
                begin,
                begin + len(lengths),
                tuple(layer.expand(len(lengths), -1, -1, -1) for layer in keys),
                tuple(layer.expand(len(lengths), -1, -1, -1) for layer in values),
                mask,
            )
        )
        position = stop
    return parts


def _prompt_chunk(span: Span, offset: int, dtype: torch.dtype, device: torch.device) -> list[Queries]:
    end = span.start + span.count
    length = capacity_for(end)
    mask = _lengths_mask(range(span.start + 1, end + 1), length, dtype, device)[None, None]
    return [Queries(offset, offset + span.count, *_rows(span.row.slab, span.row.index, 1, length), mask)]


def _writes(spans: Sequence[Span], offsets: list[int], device: torch.device) -> tuple[Write, ...]:
    tokens: dict[int, list[int]] = {}
    places: dict[int, list[int]] = {}
    slabs: dict[int, Slab] = {}
    for i in sorted(range(len(spans)), key=offsets.__getitem__):
        span, offset = spans[i], offsets[i]
        capacity = span.row.slab.capacity
        slabs[capacity] = span.row.slab
        tokens.setdefault(capacity, []).extend(range(offset, offset + span.count))
        base = span.row.index * span.row.slab.data.shape[3] * capacity + span.start
        places.setdefault(capacity, []).extend(range(base, base + span.count))
    return tuple(
        Write(
            slab.data.flatten(1, 4).unbind(),
            _selection(tokens[size], device),
            _lines(slab, torch.tensor(places[size], device=device)),
        )
        for size, slab in slabs.items()
    )


def _lines(slab: Slab, first: torch.Tensor) -> torch.Tensor:
    """Lines of :class:`Write` for tokens whose key of head 0 goes to line ``first`` [tokens]."""
    _, kinds, rows, heads, capacity, _ = slab.data.shape
    head = torch.arange(heads, device=first.device)[:, None] * capacity
    kind = torch.arange(kinds, device=first.device)[:, None, None] * (rows * heads * capacity)
    return (kind + head + first).flatten()


def _selection(tokens: list[int], device: torch.device) -> torch.Tensor | slice:
    """Ascending indices, as a slice where there is no gap."""
    if tokens[-1] - tokens[0] + 1 == len(tokens):
        return slice(tokens[0], tokens[-1] + 1)
    return torch.tensor(tokens, device=device)


def cached_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # noqa: ARG001  (transformers passes it; the layout has the masks)
    scaling: float | None = None,
    dropout: float = 0.0,  # noqa: ARG001
    *,
    cache_layout: Layout | None = None,
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
    cache_layout.write(layer, key[0], value[0])
    return cache_layout.attend(layer, query[0].transpose(0, 1), scaling)[None], None


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

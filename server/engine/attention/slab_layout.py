"""Attention of packed tokens over rows of slabs.

A member's forward gets all tokens of a step in one row, ``[1, tokens]``: prompt chunks of some contexts, single response
tokens of others. :class:`Layout` says which slice of that row is what, writes the new keys and values to the
cache and attends part by part.

Prompt tokens are computed chunk by chunk on a fixed grid, response tokens one a step or several at once: computed again after
preemption, late by a member whose weight has just left 0, or as a draft to be verified. With ``exact`` a response token is a
single query over a length of its own in each of these cases, so that *its arithmetic depends on its position only*; without,
tokens of one context that come together share one product, which is faster and differs in the last bits.

Candidates for one place (:class:`~server.engine.chunk.Chunk` ``apart``) are written nowhere; they attend to what is before that
place and to themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from server.engine.attention.candidate_attention import attend_candidates
from server.engine.cache.kv_cache import KVCache, Row, Slab, capacity_for
from server.engine.chunk import Chunk

_KeysValues = tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Queries:
    """A slice of the tokens, and the keys and values over which it attends.

    ``keys``, ``values``: per layer, [rows, kv_heads, length, head_dim] views of a slab. ``mask`` is additive,
    [rows, 1, queries, length]; every row has as many queries. ``where`` says which of the rows have any, None where all do.
    """

    start: int
    stop: int
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    where: torch.Tensor | None = None

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """``query`` [tokens, heads, head_dim] of this slice, row after row → the same shape."""
        keys, values = self.keys[layer], self.values[layer]
        count, width = self.mask.shape[2], query.shape[2]
        rows = query.view(-1, count, *query.shape[1:])
        if self.where is not None:
            rows = rows.new_zeros(keys.shape[0], *rows.shape[1:]).index_copy_(0, self.where, rows)
        # Query heads that share a key head become queries of that head: no repeated keys.
        heads = rows.transpose(1, 2).reshape(keys.shape[0], keys.shape[1], -1, width)
        groups = heads.shape[2] // count
        mask = self.mask if count == 1 or groups == 1 else self.mask.repeat(1, 1, groups, 1)
        out = _attend(heads, keys, values, mask, scale)
        out = out.reshape(keys.shape[0], -1, count, width).transpose(1, 2)
        return (out if self.where is None else out.index_select(0, self.where)).flatten(0, 1)


@dataclass(slots=True)
class Candidates:
    """A slice of the tokens that are candidates, equally many behind each of several contexts.

    As :class:`Queries`, with ``mask`` [rows, 1, 1, length] and ``count`` candidates a context. ``places`` [tokens] says where
    they lie among the packed tokens, ``own`` has their keys and values [tokens, kv_heads, head_dim] of the layer last written.
    """

    start: int
    stop: int
    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    mask: torch.Tensor
    where: torch.Tensor | None
    count: int
    places: torch.Tensor
    own: tuple[torch.Tensor, torch.Tensor] | None = None

    def write(self, key: torch.Tensor, value: torch.Tensor) -> None:
        """Take the candidates' of ``key`` and ``value`` [tokens, kv_heads, head_dim] of all packed tokens."""
        dtype = self.keys[0].dtype
        self.own = key.index_select(0, self.places).to(dtype), value.index_select(0, self.places).to(dtype)

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """``query`` [tokens, heads, head_dim] of this slice, row after row → the same shape."""
        assert self.own is not None
        query, *own = (self._by_row(part) for part in (query, *self.own))
        out = attend_candidates(
            query, self.keys[layer], self.values[layer], self.mask, (own[0], own[1]), scale
        )
        return (out if self.where is None else out.index_select(0, self.where)).flatten(0, 1)

    def _by_row(self, tokens: torch.Tensor) -> torch.Tensor:
        """[tokens, heads, head_dim] → [rows, count, heads, head_dim], 0 in rows without any."""
        rows = tokens.view(-1, self.count, *tokens.shape[1:])
        if self.where is None:
            return rows
        return rows.new_zeros(self.mask.shape[0], *rows.shape[1:]).index_copy_(0, self.where, rows)


FEW_QUERIES = 16
"""On the CPU, plain products read a long cache a quarter faster than the fused kernel, which is made for many queries."""


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """``query`` [rows, kv_heads, queries, head_dim] → the same shape."""
    if query.device.type != "cpu" or query.shape[2] > FEW_QUERIES:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    scores = torch.add(mask, query @ keys.transpose(2, 3), alpha=scale)
    return scores.softmax(-1) @ values


@dataclass(frozen=True, slots=True)
class Write:
    """Where packed tokens put their keys and values.

    ``storage``: per layer, the slab as [2 * rows * kv_heads * capacity, head_dim]; ``places`` [2 * kv_heads * tokens]: which of
    its lines the keys and values of each token go to; ``tokens``: which of the packed tokens, None for all of them.
    """

    storage: tuple[torch.Tensor, ...]
    tokens: torch.Tensor | slice | None
    places: torch.Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """What the packed tokens of one forward are. The last ``padding`` tokens belong to no part.

    ``order``: the packed tokens in the order of the parts, and back; None where it is theirs already.
    """

    tokens: int
    padding: int
    writes: tuple[Write, ...]
    parts: tuple[Queries | Candidates, ...]
    order: tuple[torch.Tensor, torch.Tensor] | None = None

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store ``key`` and ``value`` [tokens, kv_heads, head_dim] of one layer."""
        for part in self.parts:
            if isinstance(part, Candidates):
                part.write(key, value)
        both = torch.cat((key, value), dim=1)
        for write in self.writes:
            fresh = both if write.tokens is None else both[write.tokens]
            lines = fresh.flatten(0, 1).to(write.storage[layer].dtype)
            write.storage[layer].index_copy_(0, write.places, lines)

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """``query`` [tokens, heads, head_dim] → the same shape and dtype; 0 for padding."""
        dtype = query.dtype
        query = query.to(self.parts[0].keys[layer].dtype)
        if self.order is not None:
            query = query.index_select(0, self.order[0])
        outputs = [part.attend(layer, query[part.start : part.stop], scale) for part in self.parts]
        if self.padding:
            outputs.append(query.new_zeros(self.padding, *query.shape[1:]))
        out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return (out if self.order is None else out.index_select(0, self.order[1])).to(dtype)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one context: ``count`` tokens from position ``start``, in the cache at ``row``.

    ``lane``: which of the models of the forward reads them; ``apart``: they are candidates for ``start``.
    """

    row: Row
    start: int
    count: int
    is_prompt: bool
    lane: int = 0
    apart: bool = False


def lay_out(
    spans: Sequence[Span], dtype: torch.dtype, device: torch.device, multiple: int = 1, *, exact: bool = False
) -> tuple[Layout, list[int]]:
    """Pack spans into one row of tokens, lane after lane, and padding up to a multiple of ``multiple`` tokens.

    Tokens that attend together come one after the other, in the order of their rows. ``dtype`` is the cache's; ``exact``: see
    the module.

    Returns:
        the layout, and for each span the index of its first token in the packed row.
    """
    keys = [_part_key(span, exact) for span in spans]
    packed = sorted(range(len(spans)), key=lambda i: (spans[i].lane, *keys[i]))
    offsets, total = _offsets(spans, packed)
    order = sorted(packed, key=keys.__getitem__)
    starts, _ = _offsets(spans, order)
    parts: list[Queries | Candidates] = []
    for group in _groups(keys, order):
        members = [spans[i] for i in group]
        if spans[group[0]].apart:
            places = torch.tensor(
                [offsets[i] + n for i in group for n in range(spans[i].count)], device=device
            )
            parts.append(_candidates(members, starts[group[0]], places, dtype, exact=exact))
            continue
        build = {SHARED: _shared, REPLAYED: _replayed, PROMPT: _prompt_chunk}[keys[group[0]][0]]
        parts.extend(build(members, starts[group[0]], dtype, device))
    padding = -total % multiple
    writes = _writes(spans, offsets, total + padding, device)
    permutation = None if order == packed else _permutation(spans, order, offsets, total + padding, device)
    return Layout(total + padding, padding, writes, tuple(parts), permutation), offsets


SHARED, REPLAYED, PROMPT, CANDIDATES, ALONE = range(5)
"""How the tokens of a span attend: with other spans of their slab, each by itself, or as a chunk of a prompt; candidates with
those of other spans, or of one span by themselves."""


def _part_key(span: Span, exact: bool) -> tuple[int, int, int, int]:
    slab = span.row.slab
    if span.apart:
        kind = ALONE if exact else CANDIDATES
    elif span.is_prompt:
        kind = PROMPT
    elif exact and (span.count > 1 or slab.capacity != capacity_for(span.start + 1)):
        kind = REPLAYED
    else:
        kind = SHARED
    return kind, slab.capacity, span.count, span.row.index


class SlabLayouts:
    """Layouts of forwards whose lanes have their rows in slabs."""

    def __init__(self, caches: Sequence[KVCache], device: torch.device, *, exact: bool = False) -> None:
        """``exact``: see :func:`lay_out`."""
        self._caches = tuple(caches)
        self._device = device
        self._exact = exact

    def lay_out(self, chunks: Sequence[tuple[int, Chunk]], multiple: int) -> tuple[Layout, list[int]]:
        """The layout of ``chunks``, each with its lane; see :func:`lay_out`."""
        spans = [
            Span(
                self._caches[lane].row(chunk.owner),
                chunk.start,
                len(chunk.tokens),
                chunk.is_prompt,
                lane,
                chunk.apart,
            )
            for lane, chunk in chunks
        ]
        dtype = self._caches[0].shape.dtype
        return lay_out(spans, dtype, self._device, multiple=multiple, exact=self._exact)


def _offsets(spans: Sequence[Span], order: Sequence[int]) -> tuple[list[int], int]:
    """Where each span begins when they lie in this order, and where the last one ends."""
    offsets, total = [0] * len(spans), 0
    for i in order:
        offsets[i] = total
        total += spans[i].count
    return offsets, total


def _permutation(
    spans: Sequence[Span], order: Sequence[int], offsets: Sequence[int], tokens: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The packed tokens in ``order``, and the way back; padding stays last."""
    there = [place for i in order for place in range(offsets[i], offsets[i] + spans[i].count)]
    there.extend(range(len(there), tokens))
    back = [0] * tokens
    for place, token in enumerate(there):
        back[token] = place
    return torch.tensor(there, device=device), torch.tensor(back, device=device)


def _groups(keys: Sequence[tuple[int, int, int, int]], order: Sequence[int]) -> list[list[int]]:
    """Spans that attend in one call: those that share it and whose rows lie side by side. A row between them without tokens costs
    as much as one that has some, so one at a time is borne, not two."""
    groups: list[list[int]] = []
    last: tuple[int, int, int, int] | None = None
    for i in order:
        kind, capacity, count, row = keys[i]
        joins = last is not None and last[:3] == (kind, capacity, count) and 0 < row - last[3] <= 2
        if not joins or kind not in (SHARED, CANDIDATES):
            groups.append([])
        groups[-1].append(i)
        last = keys[i]
    return groups


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


def _shared(group: Sequence[Span], start: int, dtype: torch.dtype, device: torch.device) -> list[Queries]:
    """Equally many tokens of each of several rows."""
    slab, count = group[0].row.slab, group[0].count
    rows = [span.row.index for span in group]
    first, span_rows = rows[0], rows[-1] - rows[0] + 1
    # Rows of the span without a token this step attend to one position and are thrown away.
    lengths = [1] * (span_rows * count)
    for span in group:
        at = (span.row.index - first) * count
        lengths[at : at + count] = range(span.start + 1, span.start + count + 1)
    mask = _lengths_mask(lengths, slab.capacity, dtype, device).view(span_rows, 1, count, slab.capacity)
    where = None if span_rows == len(rows) else torch.tensor([row - first for row in rows], device=device)
    stop = start + len(group) * count
    return [Queries(start, stop, *_rows(slab, first, span_rows, slab.capacity), mask, where)]


def _replayed(group: Sequence[Span], start: int, dtype: torch.dtype, device: torch.device) -> list[Queries]:
    """Each token as it is when it comes alone. (Not as one call with repeated keys: torch copies those, to another layout.)"""
    (span,) = group
    parts: list[Queries] = []
    for position in range(span.start, span.start + span.count):
        length = capacity_for(position + 1)
        mask = _lengths_mask([position + 1], length, dtype, device)[:, None, None]
        at = start + position - span.start
        parts.append(Queries(at, at + 1, *_rows(span.row.slab, span.row.index, 1, length), mask))
    return parts


def _candidates(
    group: Sequence[Span], start: int, places: torch.Tensor, dtype: torch.dtype, *, exact: bool
) -> Candidates:
    """Equally many candidates behind each of several rows; ``exact``: of one, over a length that follows from its place."""
    slab, count, device = group[0].row.slab, group[0].count, places.device
    length = capacity_for(group[0].start) if exact else slab.capacity
    rows = [span.row.index for span in group]
    lengths = [1] * (rows[-1] - rows[0] + 1)
    for span in group:
        lengths[span.row.index - rows[0]] = span.start
    mask = _lengths_mask(lengths, length, dtype, device)[:, None, None]
    where = (
        None if len(lengths) == len(rows) else torch.tensor([row - rows[0] for row in rows], device=device)
    )
    stop = start + len(group) * count
    keys, values = _rows(slab, rows[0], len(lengths), length)
    return Candidates(start, stop, keys, values, mask, where, count, places)


def _prompt_chunk(
    group: Sequence[Span], start: int, dtype: torch.dtype, device: torch.device
) -> list[Queries]:
    (span,) = group
    end = span.start + span.count
    length = capacity_for(end)
    mask = _lengths_mask(range(span.start + 1, end + 1), length, dtype, device)[None, None]
    return [Queries(start, start + span.count, *_rows(span.row.slab, span.row.index, 1, length), mask)]


def _writes(
    spans: Sequence[Span], offsets: Sequence[int], total: int, device: torch.device
) -> tuple[Write, ...]:
    tokens: dict[int, list[int]] = {}
    places: dict[int, list[int]] = {}
    slabs: dict[int, Slab] = {}
    for i in sorted(range(len(spans)), key=offsets.__getitem__):
        span, offset = spans[i], offsets[i]
        if span.apart:
            continue
        capacity = span.row.slab.capacity
        slabs[capacity] = span.row.slab
        tokens.setdefault(capacity, []).extend(range(offset, offset + span.count))
        base = span.row.index * span.row.slab.data.shape[3] * capacity + span.start
        places.setdefault(capacity, []).extend(range(base, base + span.count))
    return tuple(
        Write(
            slab.data.flatten(1, 4).unbind(),
            _selection(tokens[size], total, device),
            _lines(slab, torch.tensor(places[size], device=device)),
        )
        for size, slab in slabs.items()
    )


def _lines(slab: Slab, first: torch.Tensor) -> torch.Tensor:
    """Lines of :class:`Write` for tokens whose key of head 0 goes to line ``first`` [tokens]."""
    _, kinds, rows, heads, capacity, _ = slab.data.shape
    head = torch.arange(heads, device=first.device) * capacity
    kind = torch.arange(kinds, device=first.device)[:, None] * (rows * heads * capacity)
    return (first[:, None, None] + kind + head).flatten()


def _selection(tokens: list[int], total: int, device: torch.device) -> torch.Tensor | slice | None:
    """Ascending indices, as a slice where there is no gap, None where they are all there are."""
    if len(tokens) == total:
        return None
    if tokens[-1] - tokens[0] + 1 == len(tokens):
        return slice(tokens[0], tokens[-1] + 1)
    return torch.tensor(tokens, device=device)

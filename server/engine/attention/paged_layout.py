"""What the packed tokens of a forward are, where keys and values lie in blocks.

Response tokens are single queries, decoded or computed again, each a row of one kernel call over all members of the forward.
Prompt chunks attend one by one. A token's arithmetic depends on its own position only, as with rows of slabs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from server.engine.attention.candidate_attention import attend_candidates
from server.engine.attention.paged_attention import attend_chunk, attend_pages, gather
from server.engine.cache.kv_cache import BLOCK
from server.engine.cache.paged_cache import SCRATCH, PagedKVCache, PageStore
from server.engine.chunk import Chunk
from server.engine.transfer import upload


@dataclass(frozen=True, slots=True)
class PromptPages:
    """Packed tokens ``start`` to ``stop`` are a prompt chunk.

    ``table`` [pages] int64; ``mask`` [stop − start, pages · BLOCK] additive, in the dtype of the store.
    """

    start: int
    stop: int
    table: torch.Tensor
    mask: torch.Tensor


@dataclass(slots=True)
class CandidatePages:
    """Packed tokens ``start`` to ``stop`` are candidates for one place.

    ``table`` [pages] int64 of the context before it; ``mask`` [1, 1, 1, pages · BLOCK] additive, in the dtype of the store;
    ``own`` has their keys and values [tokens, kv_heads, head_dim] of the layer last written.
    """

    start: int
    stop: int
    table: torch.Tensor
    mask: torch.Tensor
    own: tuple[torch.Tensor, torch.Tensor] | None = None

    def write(self, key: torch.Tensor, value: torch.Tensor) -> None:
        """Take the candidates' of ``key`` and ``value`` [tokens, kv_heads, head_dim] of all packed tokens."""
        self.own = (
            key[self.start : self.stop].to(self.mask.dtype),
            value[self.start : self.stop].to(self.mask.dtype),
        )

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """``query`` [tokens, heads, head_dim] of all packed tokens → the candidates' [stop − start, heads, head_dim]."""
        assert self.own is not None
        before, read = (gather(side, self.table[None]).float() for side in (keys, values))
        # Behind the context there may be anything, not-a-number too.
        hidden = torch.isneginf(self.mask[0, 0, 0])[:, None]
        before, read = before.masked_fill(hidden, 0), read.masked_fill(hidden, 0)
        own = self.own[0][None].float(), self.own[1][None].float()
        asking = query[None, self.start : self.stop].float()
        out = attend_candidates(asking, before, read, self.mask.float(), own, scale)
        return out[0].to(query.dtype)


@dataclass(frozen=True, slots=True)
class PagedLayout:
    """Packed tokens over the blocks of a store. The last ``padding`` tokens belong to no context.

    Attributes:
        slots: [tokens] int64 where each token's key goes, among the blocks laid end to end.
        singles: [n] int64 which of the packed tokens are single queries; None where all are.
        tables, lengths: [n, width] and [n] int32, of the single queries.
    """

    tokens: int
    padding: int
    store: PageStore
    slots: torch.Tensor
    singles: torch.Tensor | None
    tables: torch.Tensor
    lengths: torch.Tensor
    prompts: tuple[PromptPages, ...] = ()
    candidates: tuple[CandidatePages, ...] = ()

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store ``key`` and ``value`` [tokens, kv_heads, head_dim] of one layer."""
        for part in self.candidates:
            part.write(key, value)
        both = self.store.data[layer].flatten(1, 2)
        both[0].index_copy_(0, self.slots, key.to(both.dtype))
        both[1].index_copy_(0, self.slots, value.to(both.dtype))

    def attend(self, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        """``query`` [tokens, heads, head_dim] → the same shape and dtype; 0 for padding."""
        keys, values = self.store.data[layer]
        cast = query.to(keys.dtype)
        if self.singles is None:
            return attend_pages(cast, keys, values, self.tables, self.lengths, scale).to(query.dtype)
        out = query.new_zeros(query.shape)
        if len(self.singles):
            picked = cast.index_select(0, self.singles)
            single = attend_pages(picked, keys, values, self.tables, self.lengths, scale)
            out.index_copy_(0, self.singles, single.to(out.dtype))
        for part in self.prompts:
            chunk = cast[part.start : part.stop]
            out[part.start : part.stop] = attend_chunk(chunk, keys, values, part.table, part.mask, scale)
        for candidates in self.candidates:
            out[candidates.start : candidates.stop] = candidates.attend(cast, keys, values, scale)
        return out


class PagedLayouts:
    """Layouts of forwards whose lanes have their blocks in one store."""

    def __init__(self, caches: Sequence[PagedKVCache], device: torch.device) -> None:
        self.caches = tuple(caches)
        self.store = caches[0].store
        self._device = device

    def lay_out(self, chunks: Sequence[tuple[int, Chunk]], multiple: int) -> tuple[PagedLayout, list[int]]:
        """The layout of ``chunks``, each with its lane, packed as they come and padded to a multiple of ``multiple`` tokens.

        Returns:
            the layout, and for each chunk the index of its first token in the packed row.
        """
        slots: list[int] = []
        singles: list[int] = []
        rows: list[tuple[Sequence[int], int]] = []
        prompts: list[PromptPages] = []
        candidates: list[CandidatePages] = []
        offsets: list[int] = []
        for lane, chunk in chunks:
            table = self.caches[lane].table(chunk.owner)
            offsets.append(len(slots))
            end = chunk.start + len(chunk.tokens)
            if chunk.apart:
                candidates.append(self._candidates(table, chunk, len(slots)))
                slots.extend([SCRATCH * BLOCK] * len(chunk.tokens))
                continue
            if chunk.is_prompt:
                prompts.append(self._prompt(table, chunk.start, end, len(slots)))
            else:
                singles.extend(range(len(slots), len(slots) + len(chunk.tokens)))
                rows.extend((table, position + 1) for position in range(chunk.start, end))
            slots.extend(table[at // BLOCK] * BLOCK + at % BLOCK for at in range(chunk.start, end))
        padding = -len(slots) % multiple
        slots.extend([SCRATCH * BLOCK] * padding)
        layout = PagedLayout(
            tokens=len(slots),
            padding=padding,
            store=self.store,
            slots=self._tensor(slots, torch.int64),
            singles=None if len(singles) == len(slots) else self._tensor(singles, torch.int64),
            tables=self._tables(rows),
            lengths=self._tensor([length for _, length in rows], torch.int32),
            prompts=tuple(prompts),
            candidates=tuple(candidates),
        )
        return layout, offsets

    def _prompt(self, table: Sequence[int], start: int, end: int, offset: int) -> PromptPages:
        pages = -(-end // BLOCK)
        device = self._device
        seen = torch.arange(pages * BLOCK, device=device) <= torch.arange(start, end, device=device)[:, None]
        mask = torch.zeros(seen.shape, dtype=self.store.shape.dtype, device=device)
        mask.masked_fill_(~seen, -torch.inf)
        return PromptPages(offset, offset + end - start, self._tensor(list(table[:pages]), torch.int64), mask)

    def _candidates(self, table: Sequence[int], chunk: Chunk, offset: int) -> CandidatePages:
        pages = -(-chunk.start // BLOCK)
        mask = torch.zeros(1, 1, 1, pages * BLOCK, dtype=self.store.shape.dtype, device=self._device)
        mask[..., chunk.start :] = -torch.inf
        blocks = self._tensor(list(table[:pages]), torch.int64)
        return CandidatePages(offset, offset + len(chunk.tokens), blocks, mask)

    def _tables(self, rows: Sequence[tuple[Sequence[int], int]]) -> torch.Tensor:
        """The tables as far as their rows reach, filled up to the widest."""
        pages = [-(-length // BLOCK) for _, length in rows]
        width = max(pages, default=1)
        filled = [
            [*table[:count], *[SCRATCH] * (width - count)]
            for (table, _), count in zip(rows, pages, strict=True)
        ]
        return self._tensor(filled, torch.int32).view(len(rows), width)

    def _tensor(self, values: Sequence[int] | Sequence[list[int]], dtype: torch.dtype) -> torch.Tensor:
        return upload(values, self._device, dtype)

"""Attention over keys and values that lie in blocks: single queries by table, prompt chunks by their gathered pages.

On CUDA single queries run in an own Triton kernel, elsewhere (and where Triton is missing) in plain PyTorch. Both cut a context
into splits of :data:`PAGES_PER_SPLIT` pages by position and add them up in order, so a row's bits do not depend on how many rows
there are, on how long the others are, or on where its blocks lie.
"""

import logging
from functools import cache
from types import ModuleType

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

PAGES_PER_SPLIT = 4
"""Blocks that one program of the kernel reads one after another: 256 tokens."""

LARGEST_HEAD = 256
"""Widest head that the kernel takes; wider ones are computed by the plain version."""


def attend_pages(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    scale: float | None,
) -> torch.Tensor:
    """One query per row over the first ``lengths[row]`` tokens of its table.

    Several tokens of one sequence are rows with the same table and growing lengths: that is all there is to causality.

    Args:
        query: [rows, heads, head_dim]; the last dimension contiguous.
        keys, values: [blocks, BLOCK, kv_heads, head_dim], strided alike; heads is a multiple of kv_heads.
        tables: [rows, width] int32 indices of blocks; entries behind a row's length are not used.
        lengths: [rows] int32, 1 … width · BLOCK.
        scale: of the scores; None is ``head_dim ** -0.5``.

    Returns:
        [rows, heads, head_dim] in the dtype of ``query``; sums are float32.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if query.is_cuda and query.shape[-1] <= LARGEST_HEAD and (kernel := _kernel()) is not None:
        result: torch.Tensor = kernel.attend(query, keys, values, tables, lengths, scale, PAGES_PER_SPLIT)
        return result
    return attend_pages_plainly(query, keys, values, tables, lengths, scale)


def attend_pages_plainly(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """:func:`attend_pages` in PyTorch on any device: what the kernel is tested against."""
    rows, heads, dim = query.shape
    page, kv_heads = keys.shape[1:3]
    grouped = query.reshape(rows, kv_heads, heads // kv_heads, dim).float() * scale
    peak = grouped.new_full((*grouped.shape[:3], 1), -torch.inf)
    total, output = torch.zeros_like(peak), torch.zeros_like(grouped)
    tables = pad(tables, (0, -tables.shape[1] % PAGES_PER_SPLIT)).long()
    place = torch.arange(PAGES_PER_SPLIT * page, device=query.device)
    for first in range(0, tables.shape[1], PAGES_PER_SPLIT):
        outside = place + first * page >= lengths[:, None]
        blocks = tables[:, first : first + PAGES_PER_SPLIT]
        # Contiguous, or a matrix product takes another path for one row than for several.
        k, v = (gather(side, blocks).float().contiguous() for side in (keys, values))
        # What lies behind the length may be anything, not-a-number too: 0 times that is not 0.
        v.masked_fill_(outside[:, None, :, None], 0)
        scores = (grouped @ k.transpose(2, 3)).masked_fill(outside[:, None, None], -torch.inf)
        higher = torch.maximum(peak, scores.amax(-1, keepdim=True))
        weights, shrink = (scores - higher).exp(), (peak - higher).exp()
        output = output * shrink + weights @ v
        total = total * shrink + weights.sum(-1, keepdim=True)
        peak = higher
    return (output / total).to(query.dtype).reshape(rows, heads, dim)


def attend_chunk(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    table: torch.Tensor,
    mask: torch.Tensor,
    scale: float | None,
) -> torch.Tensor:
    """Many queries of one context: its pages are gathered.

    Args:
        query: [tokens, heads, head_dim].
        keys, values: [blocks, BLOCK, kv_heads, head_dim].
        table: [pages] the context's blocks, as many as it needs.
        mask: [tokens, pages · BLOCK] additive, in the dtype of ``query``.

    Returns:
        [tokens, heads, head_dim].
    """
    tokens, heads, dim = query.shape
    kv_heads = keys.shape[2]
    groups = heads // kv_heads
    k, v = gather(keys, table[None]), gather(values, table[None])
    # In the last page, behind the last token that any query sees, there may be anything, not-a-number too.
    unseen = torch.isneginf(mask[-1, -keys.shape[1] :])[:, None]
    for side in (k, v):
        side[:, :, -keys.shape[1] :].masked_fill_(unseen, 0)
    grouped = query.transpose(0, 1).reshape(1, kv_heads, groups * tokens, dim)
    repeated = mask.repeat(groups, 1)[None, None]
    out = scaled_dot_product_attention(grouped, k, v, attn_mask=repeated, scale=scale)
    return out.reshape(heads, tokens, dim).transpose(0, 1)


def gather(storage: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """[blocks, BLOCK, kv_heads, head_dim] at ``blocks`` [rows, pages] → [rows, kv_heads, tokens, head_dim]."""
    return storage[blocks].flatten(1, 2).transpose(1, 2)


@cache
def _kernel() -> ModuleType | None:
    """The Triton kernels; None, said once, where Triton is missing."""
    try:
        from server.engine.attention import paged_kernel
    except ImportError as error:
        logging.getLogger(__name__).warning("attention runs without its kernel, more slowly: %s", error)
        return None
    return paged_kernel

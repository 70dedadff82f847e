"""Triton kernels: one query per row over its pages, the length cut into splits of fixed size (flash decoding).

Imported only where Triton is installed, through :mod:`server.engine.attention.paged_attention`, which says what the arguments
are. The bits of a row depend on its own query, pages and length alone: splits and pages are taken by position, each row has
programs of its own, and the partial results are added up in the order of the splits.
"""

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _attend_split(
    query,
    keys,
    values,
    tables,
    lengths,
    outputs,
    peaks,
    totals,
    scale,
    splits,
    query_row,
    query_head,
    kv_block,
    kv_token,
    kv_head,
    table_row,
    PAGE: tl.constexpr,
    PAGES: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
):
    """One split of one row for the query heads that share a key head: its weighted values, its peak, its sum of weights."""
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    if split * PAGES * PAGE < length:
        member = tl.arange(0, GROUP_PAD)
        dim = tl.arange(0, DIM_PAD)
        place = tl.arange(0, PAGE)
        heads = head * GROUP + member
        in_group = (member < GROUP)[:, None] & (dim < DIM)[None, :]
        at = query + row.to(tl.int64) * query_row + heads[:, None] * query_head + dim[None, :]
        q = tl.load(at, mask=in_group, other=0.0)
        peak = tl.full([GROUP_PAD], float("-inf"), tl.float32)
        total = tl.zeros([GROUP_PAD], tl.float32)
        output = tl.zeros([GROUP_PAD, DIM_PAD], tl.float32)
        first = split * PAGES
        last = tl.minimum(first + PAGES, tl.cdiv(length, PAGE))
        for page in range(first, last):
            block = tl.load(tables + row.to(tl.int64) * table_row + page).to(tl.int64)
            inside = page * PAGE + place < length
            # What lies behind the length may be anything, not-a-number too, so it is not even read.
            seen = inside[:, None] & (dim < DIM)[None, :]
            offset = block * kv_block + head * kv_head + place[:, None] * kv_token + dim[None, :]
            k = tl.load(keys + offset, mask=seen, other=0.0)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where(inside[None, :], scores, float("-inf"))
            higher = tl.maximum(peak, tl.max(scores, 1))
            weights = tl.exp(scores - higher[:, None])
            shrink = tl.exp(peak - higher)
            v = tl.load(values + offset, mask=seen, other=0.0)
            output = output * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
            total = total * shrink + tl.sum(weights, 1)
            peak = higher
        line = (row.to(tl.int64) * splits + split) * tl.num_programs(1) * GROUP + heads
        tl.store(outputs + line[:, None] * DIM + dim[None, :], output, mask=in_group)
        tl.store(peaks + line, peak, mask=member < GROUP)
        tl.store(totals + line, total, mask=member < GROUP)


@triton.jit
def _join_splits(
    outputs,
    peaks,
    totals,
    lengths,
    result,
    splits,
    SPLIT: tl.constexpr,
    DIM: tl.constexpr,
    DIM_PAD: tl.constexpr,
):
    """The splits of one row and head, added up in their order."""
    row, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    dim = tl.arange(0, DIM_PAD)
    peak = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    output = tl.zeros([DIM_PAD], tl.float32)
    one = tl.arange(0, 1)
    for split in range(tl.cdiv(tl.load(lengths + row), SPLIT)):
        line = (row.to(tl.int64) * splits + split) * heads + head
        part = tl.load(peaks + line + one)
        higher = tl.maximum(peak, part)
        shrink, share = tl.exp(peak - higher), tl.exp(part - higher)
        values = tl.load(outputs + line * DIM + dim, mask=dim < DIM, other=0.0)
        output = output * shrink + values * share
        total = total * shrink + tl.load(totals + line + one) * share
        peak = higher
    at = result + (row.to(tl.int64) * heads + head) * DIM + dim
    tl.store(at, (output / total).to(result.dtype.element_ty), mask=dim < DIM)


def attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    pages_per_split: int,
) -> torch.Tensor:
    """:func:`server.engine.attention.paged_attention.attend_pages` by the kernels above; never waits for the device."""
    rows, heads, dim = query.shape
    _, page, kv_heads, _ = keys.shape
    group = heads // kv_heads
    splits = -(-tables.shape[1] // pages_per_split)
    outputs = torch.empty(rows, splits, heads, dim, dtype=torch.float32, device=query.device)
    peaks, totals = torch.empty(2, rows, splits, heads, dtype=torch.float32, device=query.device)
    result = torch.empty(rows, heads, dim, dtype=query.dtype, device=query.device)
    padded = max(16, triton.next_power_of_2(dim))
    _attend_split[(rows, kv_heads, splits)](
        query,
        keys,
        values,
        tables,
        lengths,
        outputs,
        peaks,
        totals,
        scale,
        splits,
        query.stride(0),
        query.stride(1),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        tables.stride(0),
        PAGE=page,
        PAGES=pages_per_split,
        GROUP=group,
        GROUP_PAD=max(16, triton.next_power_of_2(group)),  # the least that tensor cores multiply
        DIM=dim,
        DIM_PAD=padded,
        num_warps=4,
        num_stages=_stages(query.device, page * padded * keys.element_size()),
    )
    _join_splits[(rows, heads)](
        outputs,
        peaks,
        totals,
        lengths,
        result,
        splits,
        SPLIT=page * pages_per_split,
        DIM=dim,
        DIM_PAD=padded,
        num_warps=1 if padded <= 64 else 2,
    )
    return result


def _stages(device: torch.device, tile: int) -> int:
    """Pages in flight at once: as many as shared memory has room for, ``tile`` bytes each of keys and of values; 3 at most."""
    if device.type != "cuda":
        return 1
    properties: Any = torch.cuda.get_device_properties(device)
    memory: int = properties.shared_memory_per_block_optin
    return max(1, min(3, (memory - (16 << 10)) // (2 * tile)))

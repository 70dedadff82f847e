"""Attention by block table is attention: whatever lies in other blocks, wherever the own ones lie, whoever else is in the batch.

The Triton kernel is held to the plain version. That needs a GPU, or Triton's interpreter (``make test-kernel``).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from server.engine.attention.paged_attention import attend_chunk, attend_pages, attend_pages_plainly
from server.engine.cache.kv_cache import BLOCK

SPLIT = 256
LENGTHS = (1, 2, 63, 64, 65, 255, 256, 257, 300, 600)
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


@dataclass(frozen=True)
class Pages:
    """Random queries, and contexts whose blocks lie anywhere; what no row may read is not-a-number."""

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    tables: torch.Tensor
    lengths: torch.Tensor

    @property
    def scale(self) -> float:
        return float(self.query.shape[-1] ** -0.5)

    def by(self, attend: Attend) -> torch.Tensor:
        return attend(self.query, self.keys, self.values, self.tables, self.lengths, self.scale)

    def rows(self, *rows: int) -> "Pages":
        """Some of the rows only, their tables cut to what these need."""
        lengths = self.lengths[list(rows)]
        width = -(-int(lengths.max()) // BLOCK)
        return replace(
            self,
            query=self.query[list(rows)],
            tables=self.tables[list(rows)][:, :width].contiguous(),
            lengths=lengths,
        )

    def context(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values [kv_heads, length, head_dim] of a row, collected token by token."""
        places = [
            (int(self.tables[row, n // BLOCK]), n % BLOCK) for n in range(int(self.lengths[row].item()))
        ]
        keys = torch.stack([self.keys[block, place] for block, place in places], 1)
        return keys, torch.stack([self.values[block, place] for block, place in places], 1)


def pages(
    heads: int = 4,
    kv_heads: int = 2,
    dim: int = 32,
    dtype: torch.dtype = torch.float32,
    lengths: tuple[int, ...] = LENGTHS,
    device: str = "cpu",
) -> Pages:
    generator = torch.Generator().manual_seed(dim + heads)
    counts = [-(-length // BLOCK) for length in lengths]
    total, width = sum(counts) + 3, max(counts) + 2
    order = torch.randperm(total, generator=generator).tolist()
    tables = torch.full((len(lengths), width), order.pop(), dtype=torch.int32)
    keys, values = torch.full((2, total, BLOCK, kv_heads, dim), torch.nan)
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        blocks = [order.pop() for _ in range(count)]
        tables[row, :count] = torch.tensor(blocks)
        for side in (keys, values):
            text = torch.full((count * BLOCK, kv_heads, dim), torch.nan)
            text[:length] = torch.randn(length, kv_heads, dim, generator=generator)
            side[blocks] = text.reshape(count, BLOCK, kv_heads, dim)
    query = torch.randn(len(lengths), heads, dim, generator=generator)
    return Pages(
        query.to(device, dtype),
        keys.to(device, dtype),
        values.to(device, dtype),
        tables.to(device),
        torch.tensor(lengths, dtype=torch.int32, device=device),
    )


def by_definition(batch: Pages) -> torch.Tensor:
    """Row by row: softmax(q kᵀ · scale) v in float64 over the tokens of its own context."""
    rows = []
    for row, query in enumerate(batch.query.double()):
        keys, values = (
            side.double().repeat_interleave(query.shape[0] // side.shape[0], 0) for side in batch.context(row)
        )
        scores = (keys @ query[:, :, None])[:, :, 0] * batch.scale
        rows.append((scores.softmax(-1)[:, None] @ values)[:, 0])
    return torch.stack(rows)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (4, 4), (6, 1)])
def test_every_row_attends_to_its_own_tokens_and_no_others(heads: int, kv_heads: int) -> None:
    batch = pages(heads, kv_heads)
    got = batch.by(attend_pages_plainly)
    assert (got - by_definition(batch)).abs().max() < 1e-6


def test_a_row_has_the_bits_it_has_alone() -> None:
    batch = pages()
    together = batch.by(attend_pages_plainly)
    for row in range(len(LENGTHS)):
        assert torch.equal(batch.rows(row).by(attend_pages_plainly)[0], together[row])


def test_half_precision_sums_in_single() -> None:
    batch = pages(dtype=torch.bfloat16)
    single = replace(
        batch, query=batch.query.float(), keys=batch.keys.float(), values=batch.values.float()
    ).by(attend_pages_plainly)
    assert torch.equal(batch.by(attend_pages_plainly), single.bfloat16())


def test_without_a_gpu_the_plain_version_answers_with_the_usual_scale() -> None:
    batch = pages()
    got = attend_pages(batch.query, batch.keys, batch.values, batch.tables, batch.lengths, None)
    assert torch.equal(got, batch.by(attend_pages_plainly))


@pytest.mark.parametrize("start", [0, 40, 64, 100])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_chunk_attends_causally_to_its_pages(start: int, kv_heads: int) -> None:
    count, end = 30, start + 30
    batch = pages(kv_heads=kv_heads, lengths=(end,))
    query = torch.randn(count, 4, 32, generator=torch.Generator().manual_seed(0))
    table = batch.tables[0, : -(-end // BLOCK)].long()
    seen = torch.arange(len(table) * BLOCK) <= torch.arange(start, end)[:, None]
    mask = torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)
    got = attend_chunk(query, batch.keys, batch.values, table, mask, None)
    keys, values = (side.repeat_interleave(4 // kv_heads, 0)[None] for side in batch.context(0))
    expected = scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys, values, attn_mask=seen[:, :end][None, None]
    )
    assert (got - expected[0].transpose(0, 1)).abs().max() < 1e-6


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture
def device() -> str:
    """Where the kernel can run here."""
    if INTERPRETED:
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    pytest.skip("neither a GPU nor Triton's interpreter: make test-kernel")


def kernel(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """The Triton kernel itself, no way around it."""
    from server.engine.attention import paged_kernel

    return paged_kernel.attend(query, keys, values, tables, lengths, scale, SPLIT // BLOCK)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "dtype", "tolerance"),
    [
        (4, 2, 32, torch.float32, 1e-5),
        (3, 3, 64, torch.float32, 1e-5),
        (8, 1, 80, torch.float32, 1e-5),  # neither the group nor the width is a power of two
        (2, 1, 256, torch.float32, 1e-5),
        (32, 1, 32, torch.float32, 1e-5),  # a group larger than the least tile
        (4, 2, 64, torch.float16, 2e-3),
        (4, 2, 128, torch.bfloat16, 2e-2),
        (2, 1, 256, torch.bfloat16, 2e-2),
    ],
)
def test_the_kernel_gives_what_the_plain_version_gives(
    device: str, heads: int, kv_heads: int, dim: int, dtype: torch.dtype, tolerance: float
) -> None:
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 as integers: make test-gpu")
    batch = pages(heads, kv_heads, dim, dtype, device=device)
    got = batch.by(kernel)
    assert got.dtype == dtype
    assert (got - batch.by(attend_pages_plainly)).abs().max() < tolerance


@pytest.mark.kernel
def test_in_the_kernel_a_row_has_the_bits_it_has_alone(device: str) -> None:
    batch = pages(device=device)
    together = batch.by(kernel)
    for row in range(len(LENGTHS)):
        assert torch.equal(batch.rows(row).by(kernel)[0], together[row])
    assert torch.equal(batch.rows(9, 0, 7).by(kernel), together[[9, 0, 7]])


@pytest.mark.kernel
def test_the_kernel_takes_strided_views_and_tokens_of_one_table_as_rows(device: str) -> None:
    """As a layer of the cache is a view of the whole, and queries are a slice of a packed projection."""
    batch = pages(lengths=(70,), device=device)
    lengths = torch.arange(60, 71, dtype=torch.int32, device=device)
    packed = torch.randn(11, 3, 4, 32, generator=torch.Generator().manual_seed(1)).to(device)
    storage = torch.stack((batch.keys, batch.values, batch.keys))[None]
    tables = batch.tables.expand(11, -1)
    verify = Pages(packed[:, 1], storage[0, 0], storage[0, 1], tables, lengths)
    got = verify.by(kernel)
    assert (got - verify.by(attend_pages_plainly)).abs().max() < 1e-5
    assert (got[-1:] - verify.rows(10).by(kernel)).abs().max() == 0

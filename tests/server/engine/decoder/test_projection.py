"""A projection is the matrix product it stands for, row by row, and holds its weights once."""

import gc
import weakref

import pytest
import torch
from torch.nn import functional as F

from server.engine.decoder.projection import Projection, project

ROWS = [*range(1, 66), 129]
SHAPES = [(96, 64), (100, 33), (64, 2048), (1000, 128)]
"""[out, in]: round, ragged, an input so long that oneDNN splits its sum, a head."""

packed_bfloat16 = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported(), reason="this CPU has no bfloat16 products to pack for"
)


def matrices(
    *shapes: tuple[int, int], dtype: torch.dtype = torch.float32
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return weights, [torch.randn(shape[0], generator=generator).to(dtype) for shape in shapes]


def rows(count: int, features: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(2)).to(dtype)


def worst(projection: Projection, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> float:
    """Largest error, relative to the largest value."""
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    return ((projection(x).double() - exact).abs().max() / exact.abs().max()).item()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_it_is_the_plain_product_for_any_number_of_rows(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    (weight,), (bias,) = matrices(shape, dtype=dtype)
    x = rows(ROWS[-1], shape[1], dtype)
    for one_bias in (None, bias):
        projection = project([weight], [one_bias])
        assert (projection.out_features, projection.in_features) == shape
        for count in ROWS:
            product = projection(x[:count])
            assert (product.shape, product.dtype) == ((count, shape[0]), dtype)
            assert worst(projection, x[:count], weight, one_bias) < tolerance


def test_matrices_with_the_same_input_are_one_projection_and_a_missing_bias_is_zero() -> None:
    weights, (query, key, _) = matrices((64, 48), (16, 48), (16, 48))
    x = rows(5, 48)
    plain = torch.cat(
        [F.linear(x, weights[0], query), F.linear(x, weights[1], key), F.linear(x, weights[2])], -1
    )
    torch.testing.assert_close(project(weights, [query, key, None])(x), plain, rtol=1e-5, atol=1e-5)


def test_a_row_that_lies_inside_another_tensor_is_read_where_it_lies() -> None:
    (weight,), _ = matrices((96, 64))
    wide = rows(7, 200)
    projection = project([weight], [None])
    assert torch.equal(projection(wide[:, 30:94]), projection(wide[:, 30:94].contiguous()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=packed_bfloat16)])
def test_a_row_has_the_same_bits_alone_and_among_others(shape: tuple[int, int], dtype: torch.dtype) -> None:
    (weight,), (bias,) = matrices(shape, dtype=dtype)
    x = rows(ROWS[-1], shape[1], dtype)
    projection = project([weight], [bias])
    together = projection(x)
    for count in ROWS:
        assert torch.equal(projection(x[:count]), together[:count]), f"{count} rows"


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=packed_bfloat16)])
def test_a_packed_projection_holds_its_weights_once(dtype: torch.dtype) -> None:
    weights, _ = matrices((128, 64), (128, 64), dtype=dtype)
    dense = [weakref.ref(weight) for weight in weights]
    projection = project(weights[:1], [None])
    fused = project(weights, [None, None])
    del weights
    gc.collect()
    assert [reference() for reference in dense] == [None, None]
    assert projection.nbytes == 128 * 64 * dtype.itemsize
    assert fused.nbytes == 2 * projection.nbytes


def test_what_cannot_be_packed_runs_on_the_weight_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    (half,), _ = matrices((96, 64), dtype=torch.float16)
    x = rows(3, 64)
    assert torch.equal(project([half], [None])(x.half()), F.linear(x.half(), half))
    (weight,), _ = matrices((96, 64))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    projection = project([weight], [None])
    assert torch.equal(projection(x), F.linear(x, weight))
    assert projection.nbytes == weight.nbytes


def test_a_packed_product_that_is_wrong_or_refused_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    (weight,), _ = matrices((96, 64))
    x = rows(3, 64)

    def wrong(*_: object) -> torch.Tensor:
        return torch.zeros(3, 96)

    def refused(*_: object) -> torch.Tensor:
        raise RuntimeError("could not create a primitive")

    for broken in (wrong, refused):
        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", broken)
        assert torch.equal(project([weight], [None])(x), F.linear(x, weight))


def test_weights_and_biases_must_belong_together() -> None:
    (weight,), _ = matrices((96, 64))
    with pytest.raises(ValueError, match="1 weights and 2 biases"):
        project([weight], [None, None])
    with pytest.raises(ValueError, match="at least one weight"):
        project([], [])

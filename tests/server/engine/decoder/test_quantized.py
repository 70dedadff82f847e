"""A quantized projection is the product of rounded weights and rounded rows, each row rounded by itself."""

import gc
import weakref

import pytest
import torch
from torch.nn import functional as F

from arm_models.errors import UserError
from server.engine.decoder.projection import project
from server.engine.decoder.quantized import QuantizedProjection

pytestmark = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="this CPU has no products of bytes that do not overflow"
)

SHAPES = [(96, 64), (100, 33), (64, 2048), (1000, 128)]


def weight_and_bias(shape: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator), torch.randn(shape[0], generator=generator)


def rows(count: int, features: int) -> torch.Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(2))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Every row at 255 levels, symmetric around 0."""
    scale = x.abs().amax(1, keepdim=True) / 127
    return ((x / scale + 0.5).floor() * scale).double()


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_product_of_what_was_rounded(shape: tuple[int, int]) -> None:
    weight, bias = weight_and_bias(shape)
    x = rows(65, shape[1])
    for one_bias in (None, bias):
        exact = rounded(x) @ rounded(weight).T + (0 if one_bias is None else one_bias)
        projection = project([weight], [one_bias], quantize=True)
        assert (projection.out_features, projection.in_features) == shape
        for count in (1, 2, 3, 4, 31, 65):
            product = projection(x[:count])
            assert (product.shape, product.dtype) == ((count, shape[0]), torch.float32)
            assert (product - exact[:count]).abs().max() < 1e-4 * exact.abs().max()


def test_rounding_costs_about_a_hundredth() -> None:
    weight, _ = weight_and_bias((512, 512))
    x = rows(32, 512)
    plain = F.linear(x, weight)
    assert (project([weight], [None], quantize=True)(x) - plain).norm() < 0.015 * plain.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_has_the_same_bits_alone_and_among_others(shape: tuple[int, int]) -> None:
    weight, bias = weight_and_bias(shape)
    x = rows(129, shape[1])
    x[7] *= 1e3  # a row's scale is its own
    projection = project([weight], [bias], quantize=True)
    together = projection(x)
    for count in (*range(1, 20), 32, 33, 64, 65):
        assert torch.equal(projection(x[:count]), together[:count]), f"{count} rows"


def test_every_output_has_a_scale_of_its_own() -> None:
    weight, _ = weight_and_bias((64, 96))
    weight[3] *= 1e-4
    x = rows(5, 96)
    plain = F.linear(x, weight)[:, 3]
    assert (project([weight], [None], quantize=True)(x)[:, 3] - plain).norm() < 0.02 * plain.norm()


def test_zeros_stay_zeros_and_what_is_not_finite_is_not_hidden() -> None:
    weight, _ = weight_and_bias((64, 96))
    weight[5] = 0.0
    x = rows(3, 96)
    x[0] = 0.0
    x[1, 4] = torch.nan
    product = project([weight], [None], quantize=True)(x)
    assert not product[0].any()
    assert not product[1].isfinite().any()
    assert product[2].isfinite().all() and product[2, 5] == 0


def test_it_holds_a_byte_for_each_weight_and_not_the_dense_matrix() -> None:
    weight, _ = weight_and_bias((128, 256))
    dense = weakref.ref(weight)
    projection = project([weight], [None], quantize=True)
    assert 128 * 256 <= projection.nbytes <= 128 * (256 + 8)
    del weight
    gc.collect()
    assert dense() is None


def test_only_float32_on_a_cpu_can_be_quantized() -> None:
    weight, _ = weight_and_bias((64, 96))
    with pytest.raises(UserError, match=r"float32 weights on a CPU, not for torch\.bfloat16"):
        project([weight.bfloat16()], [None], quantize=True)


def test_a_machine_whose_products_overflow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    right = QuantizedProjection._multiply

    def sixteen_bits(self: QuantizedProjection, levels: torch.Tensor) -> torch.Tensor:
        return right(self, levels.clamp_max(200))

    weight, _ = weight_and_bias((64, 96))
    monkeypatch.setattr(QuantizedProjection, "_multiply", sixteen_bits)
    with pytest.raises(UserError, match="its integer products are wrong; use float32 or bfloat16"):
        project([weight], [None], quantize=True)


def test_a_build_of_torch_without_the_operation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, _ = weight_and_bias((64, 96))

    def missing(*_: object) -> torch.Tensor:
        raise RuntimeError("no kernel for the CPU")

    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", missing)
    with pytest.raises(UserError, match="dtype int8 cannot be used on this machine: no kernel for the CPU"):
        project([weight], [None], quantize=True)

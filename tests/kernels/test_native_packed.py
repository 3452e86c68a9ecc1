"""Projections by weights in 8 or 4 bits, on the CPU, against float32 products of what the weights stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.native import declines
from tests.kernels.steps import TOLERANCE, error

pytestmark = pytest.mark.usefixtures("native_backend")
NATIVE = torch.ops.autodeploy_native
DTYPES = [torch.float32, torch.bfloat16]
Packed = tuple[Tensor, Tensor, Tensor | None]


def packed(
    format: str, n: int, k: int, group: int, zero: torch.dtype | None = None, scale: torch.dtype = torch.float32
) -> Packed:
    """A random weight, its scales and its zero points."""
    groups = (n, k // group) if group else (n, 1)
    scales = (torch.rand(groups) + 0.1).to(scale)
    if format == "int8":
        return torch.randint(-128, 128, (n, k), dtype=torch.int8), scales, None
    if format == "fp8":
        return torch.randn(n, k).to(torch.float8_e4m3fn), scales, None
    zeros = None if zero is None else (torch.rand(groups) * 15).round().to(zero)
    return torch.randint(0, 256, (n, k // 2), dtype=torch.uint8), scales, zeros


def check(x: Tensor, weight: Packed, format: str, bias: Tensor | None = None) -> Tensor:
    out: Tensor = NATIVE.packed_linear(x, *weight, None, bias, format)
    wide = None if bias is None else bias.float()
    exact = ops.packed_linear.reference(x.float(), *weight, None, wide, format)
    assert out.dtype == x.dtype
    assert out.is_contiguous()
    assert error(out, exact) <= TOLERANCE[x.dtype] * 0.4  # rounding to bf16 alone may cost 2^-8
    return out


CASES = [
    ("int8", 576, 0), ("int8", 576, 32), ("int8", 128, 16), ("int8", 384, 128), ("int8", 100, 0), ("int8", 100, 10),
    ("int4", 576, 32), ("int4", 128, 0), ("int4", 256, 64), ("int4", 384, 128), ("int4", 90, 0),
    ("int4", 90, 18), ("int4", 64, 16), ("fp8", 576, 0), ("fp8", 35, 0),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("format", "k", "group"), CASES)
def test_packed_linear(format: str, k: int, group: int, dtype: torch.dtype) -> None:
    for rows, n in ((1, 97), (3, 5), (8, 1), (19, 130)):
        x = torch.randn(rows, k).to(dtype)
        check(x, packed(format, n, k, group), format)
        check(x.unsqueeze(0), packed(format, n, k, group, scale=torch.bfloat16), format, torch.randn(n).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("k", "group"), [(576, 32), (256, 64), (512, 256), (90, 18)])
def test_zero_points(k: int, group: int, zero: torch.dtype, dtype: torch.dtype) -> None:
    for rows in (1, 5, 11):
        check(torch.randn(rows, k).to(dtype), packed("int4", 67, k, group, zero), "int4")


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (300, 1)])
def test_fp8_scales_of_blocks(shape: tuple[int, int]) -> None:
    weight = torch.randn(300, 290).to(torch.float8_e4m3fn)
    check(torch.randn(5, 290), (weight, torch.rand(shape) + 0.1, None), "fp8")


def test_every_fp8_number_is_read() -> None:
    weight = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).view(256, 1)
    out = NATIVE.packed_linear(torch.ones(1, 1), weight, torch.ones(1, 1), None, None, None, "fp8")
    torch.testing.assert_close(out[0], weight[:, 0].float(), equal_nan=True, rtol=0, atol=0)


def test_a_large_number_does_not_drown_its_neighbours() -> None:
    weight = packed("int8", 40, 576, 0)
    weight[0][:, 100] = 0
    x = torch.randn(2, 576, dtype=torch.bfloat16)
    x[:, 100] = 300
    check(x, weight, "int8")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("format", "group"), [("int8", 0), ("int8", 32), ("int4", 32), ("fp8", 0)])
def test_a_row_does_not_depend_on_the_batch(format: str, group: int, dtype: torch.dtype) -> None:
    weight = packed(format, 203, 576, group, torch.uint8)
    x = torch.randn(21, 576).to(dtype)
    alone = torch.cat([NATIVE.packed_linear(row, *weight, None, None, format) for row in x.unsqueeze(1)])
    for rows in (2, 3, 4, 5, 8, 21):
        assert torch.equal(NATIVE.packed_linear(x[:rows], *weight, None, None, format), alone[:rows])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 11])
def test_gates(rows: int, dtype: torch.dtype) -> None:
    x, bias = torch.randn(rows, 128).to(dtype), torch.randn(134).to(dtype)
    for format in ("int8", "int4"):
        weight = packed(format, 134, 128, 32)
        both = NATIVE.packed_linear(x, *weight, None, bias, format)
        gated = NATIVE.packed_gated_linear(x, *weight, None, bias, format, "silu")
        assert torch.equal(gated, NATIVE.gated_activation(*both.chunk(2, dim=-1), "silu"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("x_scale", "weight_scale"), [((), (1, 1)), ((1,), (130, 1)), ((3,), (130, 1)), ((3,), (2, 3))]
)
def test_scaled_linear(x_scale: tuple[int, ...], weight_scale: tuple[int, int], dtype: torch.dtype) -> None:
    k = 384
    weight, bias = torch.randint(-128, 128, (130, k), dtype=torch.int8), torch.randn(130).to(dtype)
    for rows in (1, 4, 13):
        x = torch.randint(-127, 128, (rows, k), dtype=torch.int8)
        scales = torch.rand((rows, *x_scale) if x_scale else ()) + 0.1, torch.rand(weight_scale) + 0.1
        args = (x, scales[0], weight, scales[1], bias, dtype)
        out = NATIVE.scaled_linear(*args)
        assert error(out, ops.scaled_linear.reference(*args[:4], bias.float(), torch.float32)) <= TOLERANCE[dtype] * 0.3
        gated = NATIVE.scaled_gated_linear(*args, "gelu")
        assert torch.equal(gated, NATIVE.gated_activation(*out.chunk(2, dim=-1), "gelu"))
        if rows > 1 and x_scale:
            first = NATIVE.scaled_linear(x[:1], scales[0][:1], weight, scales[1], bias, dtype)
            assert torch.equal(first, out[:1])


def test_what_is_declined() -> None:
    x = torch.randn(2, 64)
    weight, scale, _ = packed("int8", 8, 64, 32)
    assert declines.decodable(x, weight, scale, None, None, None, "int8") is None
    assert declines.decodable(x, weight, scale, None, None, None, "nvfp4") == "no kernel reads nvfp4 weights"
    half = declines.decodable(x, weight, scale.half(), None, None, None, "int8")
    assert half == "the scales are torch.float16, neither float32 nor bfloat16"
    codes = x.to(torch.int8)
    groups = declines.blocked(codes, torch.ones(2, 2), weight, scale[:, :1], None, torch.float32)
    assert groups == "groups of 32 columns are no multiple of 64"
    floats = declines.blocked(codes, torch.ones(2, 1), weight.float(), scale[:, :1], None, torch.float32)
    assert floats == "the weights are torch.float32, not int8"

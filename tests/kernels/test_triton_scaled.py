"""Matmuls of quantized activations: both formats, layouts of scales and ways to cut the work."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.storage import Storage
from autodeploy.quantization import formats
from tests.kernels.device import DEVICE, INTERPRETED, device_test, kernel
from tests.kernels.steps import error

scaled = pytest.importorskip("autodeploy.kernels.triton.scaled_linear")
quantized = pytest.importorskip("autodeploy.kernels.triton.quantized")

HALF, BF16 = torch.float16, torch.bfloat16
# Rows, outputs and columns, each number of rows with shapes it may trip over; every way of each is a kernel to compile.
CASES = (
    [(1, 24, 160, HALF), (20, 24, 160, HALF)]
    if INTERPRETED
    else [
        (1, 4096, 14336, BF16), (1, 1000, 1168, HALF), (3, 40, 256, BF16), (8, 4096, 14336, HALF),
        (17, 1000, 1168, BF16), (64, 4096, 14336, BF16), (70, 1000, 1168, HALF), (300, 40, 256, BF16),
        (1030, 4096, 14336, BF16), (1030, 1000, 1168, HALF),
    ]
)  # fmt: skip
FORMATS = ["fp8", "int8"]
TOLERANCE = 1e-2


def numbers(format: str, *size: int) -> Tensor:
    if format == "int8":
        return torch.randint(-127, 128, size, dtype=torch.int8, device=DEVICE)
    return torch.randn(size, device=DEVICE).to(torch.float8_e4m3fn)


def scale(*size: int) -> Tensor:
    return (torch.rand(size, device=DEVICE) + 0.5) * 0.01


def layouts(m: int, n: int, k: int) -> list[tuple[Tensor, Tensor]]:
    """Scales of x and of the weight: by row, one for all, and by group or block."""
    blocks = scale(*formats.blocks((n, k)))
    found = [(scale(m, 1), scale(n, 1)), (scale(), scale(1, 1)), (scale(m, 1), blocks)]
    return [*found, (scale(m, k // 128), blocks), (scale(m, k // 128), scale(n, 1))] if k % 128 == 0 else found


def expected(x: Tensor, xs: Tensor, weight: Tensor, ws: Tensor) -> Tensor:
    groups = 1 if not xs.dim() else xs.shape[-1]
    wide = x.double() * (xs if groups == 1 else xs.repeat_interleave(x.shape[-1] // groups, -1)).double()
    return wide @ formats.dequantize(weight, ws, None, None, "fp8").double().T


def configurations(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> Iterator[object]:
    if not INTERPRETED:
        yield from scaled.candidates(m, n, k, dtype, storage)
        return
    yield quantized.QuantizedConfig(16, 128, block_m=16, held=True)
    yield quantized.QuantizedConfig(32, 64, split_k=2, block_m=16)
    if m == 1 and storage.groups == 1 and storage.x_groups <= 1:
        yield quantized.QuantizedConfig(4, 128, 2, way="vector")
    if storage.groups == 1 and storage.x_groups <= 1:
        yield quantized.QuantizedConfig(32, 64, way="ring")
        yield quantized.QuantizedConfig(16, 32, 2, way="ring")


@device_test
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("m", "n", "k", "dtype"), CASES)
def test_ways(m: int, n: int, k: int, format: str, dtype: torch.dtype) -> None:
    x, weight, bias = numbers(format, m, k), numbers(format, n, k), torch.randn(n, device=DEVICE).to(dtype)
    for xs, ws in layouts(m, n, k):
        storage = Storage(format, "float32", *ws.shape, x_groups=xs.shape[-1] if xs.dim() else 0)  # type: ignore[misc]
        wide = expected(x, xs, weight, ws)
        for config, shift in zip(configurations(m, n, k, dtype, storage), cycle((bias, None)), strict=False):
            out = scaled.run(x, xs, weight, ws, shift, dtype, config)
            assert out.dtype == dtype
            assert error(out, wide if shift is None else wide + shift.double()) <= TOLERANCE, config


@device_test
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("m", [1, 5] if INTERPRETED else [1, 5, 70])
def test_gates(m: int, format: str) -> None:
    x, weight, bias = numbers(format, m, 128), numbers(format, 44, 128), torch.randn(44, device=DEVICE).half()
    small = 1.0 if format == "fp8" else 1e-3
    for xs, ws in layouts(m, 44, 128)[::3]:
        xs = xs * small
        wide = expected(x, xs, weight, ws) + bias.double()
        gated = ops.gated_activation.reference(*wide.chunk(2, dim=-1), "silu")
        storage = Storage(format, "float32", *ws.shape, x_groups=xs.shape[-1] if xs.dim() else 0)  # type: ignore[misc]
        for config in configurations(m, 44, 128, torch.float16, storage):
            assert error(scaled.run(x, xs, weight, ws, bias, torch.float16, config, "silu"), gated) <= TOLERANCE
        out = kernel(ops.scaled_gated_linear).run(x, xs, weight, ws, bias, torch.float16, "silu")
        assert error(out, gated) <= TOLERANCE


@device_test
def test_scales_of_groups() -> None:
    """Four groups a row, and blocks, shared by two programs."""
    x, weight = numbers("fp8", 3, 512), numbers("fp8", 140, 512)
    for xs, ws in layouts(3, 140, 512):
        out = scaled.run(
            x, xs, weight, ws, None, torch.float32, quantized.QuantizedConfig(128, 128, split_k=2, held=True)
        )
        assert error(out, expected(x, xs, weight, ws)) <= TOLERANCE


@device_test
def test_leading_dimensions() -> None:
    x, weight = numbers("fp8", 2, 3, 128), numbers("fp8", 20, 128)
    xs, ws = scale(2, 3, 1), scale(20, 1)
    out = kernel(ops.scaled_linear).run(x, xs, weight, ws, None, torch.float32)
    assert error(out, expected(x, xs, weight, ws)) <= TOLERANCE
    out = kernel(ops.scaled_linear).run(x[0, 0], xs[0, 0], weight, ws, None, torch.float32)
    assert error(out, expected(x[0, 0], xs[0, 0], weight, ws)) <= TOLERANCE


@device_test
def test_declines() -> None:
    declines = kernel(ops.scaled_linear).declines
    x, weight = torch.empty(2, 96, dtype=torch.int8), torch.empty(8, 96, dtype=torch.int8)
    rows = torch.empty(8, 1)
    assert declines(x, torch.empty(2, 2), weight, rows, None, torch.float16) is not None
    assert declines(x, torch.empty(2, 3), weight, rows, None, torch.float16) is None
    assert "fp8" in str(declines(x.float(), torch.empty(2, 1), weight, rows, None, torch.float16))
    with pytest.raises(ValueError, match="2 rows are more than the one"):
        scaled.run(
            numbers("int8", 2, 32), scale(2, 1), numbers("int8", 4, 32), scale(4, 1), None, torch.float16,
            quantized.QuantizedConfig(4, 32, way="vector"),
        )  # fmt: skip

"""Matmuls by stored weights: every format, layout of scales and way to cut the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.storage import Storage
from autodeploy.quantization import formats
from tests.kernels.device import DEVICE, INTERPRETED, close, device_test, kernel, later
from tests.kernels.steps import error

packed = pytest.importorskip("autodeploy.kernels.triton.packed_linear")
dequantize = pytest.importorskip("autodeploy.kernels.triton.dequantize")
quantized = pytest.importorskip("autodeploy.kernels.triton.quantized")

HALF, BF16 = torch.float16, torch.bfloat16
# Rows, outputs and columns, each number of rows with shapes it may trip over; every way of each is a kernel to compile.
CASES = (
    [(1, 24, 256, HALF), (20, 24, 256, HALF)]
    if INTERPRETED
    else [
        (1, 4096, 4096, BF16), (1, 1000, 1152, HALF), (3, 40, 256, BF16), (8, 4096, 4096, BF16),
        (17, 1000, 1152, BF16), (64, 4096, 4096, BF16), (70, 1000, 1152, HALF), (300, 40, 256, BF16),
    ]
)  # fmt: skip
TOLERANCE = 1e-2


@dataclass(frozen=True)
class Stored:
    """A weight as a format stores it."""

    format: str
    weight: Tensor
    scale: Tensor
    zero: Tensor | None = None
    global_scale: Tensor | None = None

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        return self.weight, self.scale, self.zero, self.global_scale

    @property
    def storage(self) -> Storage:
        zero = "" if self.zero is None else "zero"
        rows, groups = self.scale.shape
        return Storage(self.format, "", rows, groups, zero)

    def wide(self) -> Tensor:
        return formats.dequantize(*self.arguments, self.format).double()


def spread(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(size, device=DEVICE) + 0.5).to(dtype)


def stored_as(name: str, n: int, k: int, dtype: torch.dtype) -> Stored:
    """A random weight, by a name such as "int4-64-zeros"."""
    format, *details = name.split("-")
    group = int(details[0]) if details and details[0].isdigit() else k
    if format == "int8":
        weight = torch.randint(-128, 128, (n, k), dtype=torch.int8, device=DEVICE)
        return Stored(format, weight, spread(n, k // group, dtype=dtype))
    if format == "fp8":
        weight = torch.randn(n, k, device=DEVICE).to(torch.float8_e4m3fn)
        sizes = {"rows": (n, 1), "one": (1, 1), "blocks": formats.blocks((n, k))}
        return Stored(format, weight, spread(*sizes[details[0]]))
    weight = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device=DEVICE)
    if format == "nvfp4":
        return Stored(format, weight, spread(n, k // 16, dtype=torch.float8_e4m3fn), None, spread()[None][0])
    if format == "mxfp4":
        return Stored(format, weight, torch.randint(122, 130, (n, k // 32), dtype=torch.uint8, device=DEVICE))
    zero = None
    if "zeros" in details:
        zero = torch.randint(0, 16, (n, k // group), dtype=torch.uint8, device=DEVICE)
    elif "minima" in details:
        zero = spread(n, k // group) * 8
    return Stored(format, weight, spread(n, k // group, dtype=dtype), zero)


NAMES = [
    "int8", "int8-16", "int8-64", "int4-32", "int4-64", "int4-128", "int4-128-zeros", "int4-32-zeros", "int4-64-minima",
    "int4-32-minima", "int4-zeros", "fp8-rows", "fp8-one", "fp8-blocks", "nvfp4", "mxfp4",
]  # fmt: skip

COMMON = ("int8", "int4-128", "int4-128-zeros", "fp8-rows", "mxfp4")
"""Those that are tried on a GPU with all cases; of the others each takes every second one."""
WAYS = (
    [*((name, *CASES[0]) for name in NAMES), *(later(name, *CASES[1]) for name in NAMES)]
    if INTERPRETED
    else [(name, *case) for at, name in enumerate(NAMES) for case in (CASES if name in COMMON else CASES[at % 2 :: 2])]
)


def configurations(m: int, stored: Stored) -> Iterator[object]:
    """Ways to cut the work that the interpreter takes no minutes for, or those that are timed on a GPU."""
    n, k = stored.weight.shape[0], stored.weight.shape[1] * (1 if stored.format in packed.BYTES else 2)
    if not INTERPRETED:
        yield from packed.candidates(m, n, k, torch.float16, stored.storage)
        return
    yield quantized.QuantizedConfig(16, 128, block_m=16, held=True)
    yield quantized.QuantizedConfig(32, 64, split_k=2, block_m=16)
    if m == 1 and (stored.format == "int4" or (stored.format in packed.BYTES and stored.scale.shape[1] == 1)):
        yield quantized.QuantizedConfig(4, 128, 2, way="vector")
    if packed.rings_serve(torch.float16, k, stored.storage):
        yield quantized.QuantizedConfig(32, 128, way="ring")
        yield quantized.QuantizedConfig(16, 64, 3, way="ring")


@device_test
@pytest.mark.parametrize(("name", "m", "n", "k", "dtype"), WAYS)
def test_ways(name: str, m: int, n: int, k: int, dtype: torch.dtype) -> None:
    stored = stored_as(name, n, k, dtype)
    x, bias = torch.randn(m, 2 * k, device=DEVICE).to(dtype)[:, k:], torch.randn(n, device=DEVICE).to(dtype)
    expected = x.double() @ stored.wide().T
    for config, shift in zip(configurations(m, stored), cycle((bias, None)), strict=False):
        out = packed.run(x, *stored.arguments, shift, stored.format, config)
        assert out.dtype == dtype
        assert error(out, expected if shift is None else expected + shift.double()) <= TOLERANCE, config


@device_test
@pytest.mark.parametrize("name", ["int8", "int4-128-zeros", "nvfp4"])
@pytest.mark.parametrize("m", [1, 5] if INTERPRETED else [1, 5, 70])
def test_gates(name: str, m: int) -> None:
    stored = stored_as(name, 44, 256, torch.float16)
    x, bias = torch.randn(m, 256, device=DEVICE).half() * 0.01, torch.randn(44, device=DEVICE).half()
    wide = torch.nn.functional.linear(x.double(), stored.wide(), bias.double())
    expected = ops.gated_activation.reference(*wide.chunk(2, dim=-1), "silu")
    for config in configurations(m, stored):
        out = packed.run(x, *stored.arguments, bias, stored.format, config, "silu")
        assert error(out, expected) <= TOLERANCE, config
    out = kernel(ops.packed_gated_linear).run(x, *stored.arguments, bias, stored.format, "silu")
    assert error(out, expected) <= TOLERANCE


@device_test
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "k"), [(70, 384), later(20, 256)])
def test_dequantize(name: str, n: int, k: int) -> None:
    stored = stored_as(name, n, k, torch.float32)
    for dtype in (torch.float32, torch.float16):
        out = dequantize.dequantize(*stored.arguments, stored.format, k, dtype)
        close(out, stored.wide())


@device_test
def test_float32_and_leading_dimensions() -> None:
    stored = stored_as("int4-64-zeros", 40, 256, torch.float32)
    x = torch.randn(2, 3, 256, device=DEVICE)
    close(kernel(ops.packed_linear).run(x, *stored.arguments, None, "int4"), x.double() @ stored.wide().T)
    one = x[0, 0]
    close(kernel(ops.packed_linear).run(one, *stored.arguments, None, "int4"), one.double() @ stored.wide().T)


@device_test
def test_many_rows_are_decoded_once() -> None:
    stored = stored_as("int4-64", 40, 256, torch.float16)
    assert packed.candidates(4096, 40, 256, torch.float16, stored.storage) == (quantized.LIBRARY,)
    x = torch.randn(600, 256, device=DEVICE).half()
    out = kernel(ops.packed_linear).run(x, *stored.arguments, None, "int4")
    assert error(out, x.double() @ stored.wide().T) <= TOLERANCE
    with pytest.raises(ValueError, match="2 rows are more than the one"):
        packed.run(x[:2], *stored.arguments, None, "int8", quantized.QuantizedConfig(4, 128, way="vector"))


@device_test
def test_declines() -> None:
    declines = kernel(ops.packed_linear).declines
    x, bias = torch.empty(2, 96), torch.empty(8, dtype=torch.float16)
    weight, scale = torch.empty(8, 48, dtype=torch.uint8), torch.empty(8, 2)
    assert declines(x, weight, scale, None, None, None, "int4") == "groups of 48 are no power of two of at least 16"
    assert declines(x, weight, scale[:, :1], None, None, bias, "int4") == "the arguments differ in dtype"
    assert "zero points" in str(declines(x, weight, scale[:, :1], scale, None, None, "int4"))
    assert declines(x, weight, torch.empty(8, 3), None, None, None, "int4") is None
    gated = kernel(ops.packed_gated_linear).declines
    assert gated(x, weight, scale[:, :1], None, None, None, "int4", "none") == "no activation is named 'none'"

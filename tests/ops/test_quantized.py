"""The references of quantized operators against float64, by another way of reading the stored numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.ops import CanonicalOp

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def error(out: Tensor, expected: Tensor) -> float:
    assert out.shape == expected.shape
    return float((out.double() - expected).norm() / expected.norm())


def nibbles(packed: Tensor) -> Tensor:
    return torch.tensor([[code for byte in row for code in (byte % 16, byte // 16)] for row in packed.tolist()])


def bytes_of(rows: int, columns: int) -> Tensor:
    return torch.randint(0, 256, (rows, columns), dtype=torch.uint8)


def by_group(scale: Tensor, columns: int) -> Tensor:
    return torch.stack([scale[:, k * scale.shape[1] // columns] for k in range(columns)], dim=1).double()


Stored = tuple[str, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]


def int8(groups: int) -> Stored:
    weight, scale = torch.randint(-128, 128, (6, 64), dtype=torch.int8), torch.rand(6, groups)
    return "int8", weight, scale, None, None, weight.double() * by_group(scale, 64)


def int4(zero: Tensor | None) -> Stored:
    weight, scale = bytes_of(6, 32), torch.rand(6, 2)
    shift = torch.full((6, 64), 8.0).double() if zero is None else by_group(zero, 64)
    return "int4", weight, scale, zero, None, (nibbles(weight) - shift) * by_group(scale, 64)


def by_block(scale: Tensor, rows: int, columns: int) -> Tensor:
    """A scale for each element, where one row or column of scales may stand for all, or each for 128."""
    edges = [1 if len(scale) == rows else 128, 128]
    at = [
        [min(one // edge, size - 1) for one in range(count)]
        for edge, size, count in zip(edges, scale.shape, (rows, columns), strict=True)
    ]
    return scale.double()[at[0]][:, at[1]]


def fp8(scale: Tensor) -> Stored:
    weight = torch.randn(200, 260).to(torch.float8_e4m3fn)
    return "fp8", weight, scale, None, None, weight.double() * by_block(scale, 200, 260)


def nvfp4() -> Stored:
    weight, scale = bytes_of(6, 32), torch.rand(6, 4).to(torch.float8_e4m3fn)
    expected = torch.tensor(E2M1).double()[nibbles(weight)] * by_group(scale, 64) * 0.25
    return "nvfp4", weight, scale, None, torch.tensor(0.25), expected


def mxfp4() -> Stored:
    weight, scale = bytes_of(6, 32), torch.randint(120, 130, (6, 2), dtype=torch.uint8)
    factor = torch.tensor([[2.0 ** (one - 127) for one in row] for row in scale.tolist()])
    return "mxfp4", weight, scale, None, None, torch.tensor(E2M1).double()[nibbles(weight)] * by_group(factor, 64)


STORED = [
    int8(1),
    int8(4),
    int4(None),
    int4(torch.randint(0, 16, (6, 2), dtype=torch.uint8)),
    int4(torch.rand(6, 2) * 15),
    fp8(torch.rand(1, 1)),
    fp8(torch.rand(200, 1)),
    fp8(torch.rand(2, 3)),
    nvfp4(),
    mxfp4(),
]


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: stored[0])
@pytest.mark.parametrize("biased", [False, True])
def test_packed_linear(stored: Stored, biased: bool) -> None:
    name, *parts, expected = stored
    x, bias = torch.randn(2, 3, expected.shape[1]), torch.randn(len(expected)) if biased else None
    wanted = x.double() @ expected.t() + (0 if bias is None else bias.double())
    assert error(ops.packed_linear.overload(x, *parts, bias, name), wanted) < 1e-6
    gate, up = wanted.chunk(2, dim=-1)
    gated = ops.packed_gated_linear.overload(x, *parts, bias, name, "silu")
    assert error(gated, torch.nn.functional.silu(gate) * up) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("x_scale", [torch.rand(()), torch.rand(3, 1), torch.rand(3, 2)], ids=["one", "rows", "groups"])
@pytest.mark.parametrize(
    "scale", [torch.rand(1, 1), torch.rand(140, 1), torch.rand(2, 2)], ids=["one", "rows", "blocks"]
)
def test_scaled_linear(dtype: torch.dtype, x_scale: Tensor, scale: Tensor) -> None:
    x, weight = ((torch.randn(*size) * 30).to(dtype) for size in ((3, 256), (140, 256)))
    bias = torch.randn(140) * 100
    rows = x.double() * by_group(x_scale.expand(3, 1) if x_scale.dim() == 0 else x_scale, 256)
    wanted = rows @ (weight.double() * by_block(scale, 140, 256)).t() + bias.double()
    given = (x, x_scale, weight, scale, bias, torch.float32)
    assert error(ops.scaled_linear.overload(*given), wanted) < 1e-6
    gate, up = wanted.chunk(2, dim=-1)
    assert error(ops.scaled_gated_linear.overload(*given, "relu"), gate.relu() * up) < 1e-6
    assert ops.scaled_linear.overload(*given[:-1], torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(("name", "maximum", "step"), [("fp8", 448, 2**-4), ("int8", 127, 0.01)])
@pytest.mark.parametrize("group", [0, 32])
def test_dynamic_scales_reach_the_largest_number(name: str, maximum: float, step: float, group: int) -> None:
    x = torch.randn(5, 64)
    x[2] = 0
    values, scale = ops.quantize.overload(x, name, group)
    assert scale.shape == (5, 64 // (group or 64))
    back = values.double() * by_group(scale, 64)
    assert values.double().abs().amax(-1)[[0, 1, 3, 4]].tolist() == [maximum] * 4
    assert (scale[2] == 1).all()
    assert (back[2] == 0).all()
    assert 1e-3 < error(back, x.double()) < step


def test_a_static_scale_saturates_and_rounds_to_even() -> None:
    x = torch.tensor([[0.25, 0.75, -0.75, 1e6, -1e6, 1.25]])
    values, scale = ops.quantize.overload(x, "int8", 0, torch.tensor(0.5))
    assert values.tolist() == [[0, 2, -2, 127, -127, 2]]
    assert scale == 0.5
    values, _ = ops.quantize.overload(x, "fp8", 0, torch.tensor(0.5))
    assert values.float().tolist() == [[0.5, 1.5, -1.5, 448, -448, 2.5]]


@pytest.mark.parametrize("name", ["fp8", "int8"])
@pytest.mark.parametrize(("group", "scale"), [(0, None), (16, None), (0, torch.tensor(0.02))])
def test_fused_forms_are_their_parts(name: str, group: int, scale: Tensor | None) -> None:
    x, other, weight = torch.randn(3, 64), torch.randn(3, 64), torch.randn(64)
    rest = (name, group, scale)

    def alike(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
        return all(torch.equal(one.float(), two.float()) for one, two in zip(found, expected, strict=True))

    normed, total = ops.add_rms_norm.overload(x, other, weight, 1e-5, 1.0, True)
    both = ops.quantize.overload(normed, *rest)
    assert alike(ops.add_rms_norm_quantize.overload(x, other, weight, 1e-5, 1.0, True, *rest), (total, *both))
    assert alike(ops.rms_norm_quantize.overload(total, weight, 1e-5, 1.0, True, *rest), both)
    gated = ops.quantize.overload(ops.gated_activation.overload(x, other, "silu"), *rest)
    assert alike(ops.gated_activation_quantize.overload(x, other, "silu", *rest), gated)


X, ROW = torch.randn(2, 3, 64), torch.ones(())
CALLS = [
    (ops.quantize, (X, "fp8")),
    (ops.quantize, (X, "int8", 16)),
    (ops.quantize, (X, "int8", 0, ROW)),
    (ops.rms_norm_quantize, (X, None, 1e-5, 0.0, False, "fp8", 32)),
    (ops.add_rms_norm_quantize, (X, X, None, 1e-5, 0.0, False, "fp8", 32)),
    (ops.gated_activation_quantize, (X, X, "silu", "int8")),
    (ops.packed_linear, (X, *int8(1)[1:5], None, "int8")),
    (ops.packed_gated_linear, (X, *int8(1)[1:5], None, "int8", "silu")),
    (ops.scaled_linear, (*ops.quantize.overload(X, "int8"), *int8(1)[1:3], None, torch.float16)),
    (ops.scaled_gated_linear, (*ops.quantize.overload(X, "int8"), *int8(1)[1:3], None, torch.float16, "silu")),
]


@pytest.mark.parametrize(("op", "given"), CALLS, ids=lambda one: one.name if isinstance(one, CanonicalOp) else "")
def test_shapes_and_dtypes_are_known_beforehand(op: CanonicalOp, given: tuple[object, ...]) -> None:
    real = op.overload(*given)
    fake = op.overload(*(one.to("meta") if isinstance(one, Tensor) else one for one in given))
    pairs = zip(real, fake, strict=True) if isinstance(real, tuple) else [(real, fake)]
    assert all((one.shape, one.dtype) == (two.shape, two.dtype) for one, two in pairs)

"""Skinny matmuls: every candidate, at shapes that its blocks divide and at shapes that they do not."""

from __future__ import annotations

import pytest
import torch

from autodeploy import ops
from tests.kernels.device import DEVICE, INTERPRETED, check, close, device_test, draw, later

linear = pytest.importorskip("autodeploy.kernels.triton.linear")

HALF, BF16 = torch.float16, torch.bfloat16
# Outputs, columns and dtypes: every configuration of each is a kernel to compile, which in float32 takes longest.
SHAPES = (
    [(64, 512, HALF), (48, 300, HALF)] if INTERPRETED else [(6144, 4096, BF16), (4096, 14336, HALF), (1000, 1100, BF16)]
)
SINGLE = [] if INTERPRETED else [(1, 1000, 1100, torch.float32), (7, 1000, 1100, torch.float32)]
CASES = [*((m, *shape) for m in (1, 7, 64) for shape in SHAPES), *SINGLE]
MORE = [later(m, *shape) for m in (2, 17) for shape in SHAPES]


@device_test
@pytest.mark.parametrize(("m", "n", "k", "dtype"), [*CASES, *MORE])
def test_candidates(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    x, weight, bias = draw(m, 2 * k, dtype=dtype)[:, k:], draw(n, k, dtype=dtype), draw(n, dtype=dtype)
    expected = x.double() @ weight.double().T
    for config in linear.candidates(m, n, k, dtype):
        close(linear.run(x, weight, None, config), expected)
        close(linear.run(x, weight, bias, config), expected + bias.double())


@device_test
@pytest.mark.parametrize(("m", "matrix_units"), [(1, False), (1, True), (5, True)])
@pytest.mark.parametrize("split", [later(2), later(3), 7])
def test_split_rows(m: int, matrix_units: bool, split: int) -> None:
    """Shares of a row that are unequal, and some that are empty."""
    x, weight, bias = (draw(*size, dtype=torch.float32) for size in ((m, 96), (33, 96), (33,)))
    out = linear.run(x, weight, bias, linear.SkinnyConfig(16, 32, split_k=split, matrix_units=matrix_units))
    close(out, x.double() @ weight.double().T + bias.double())


@device_test
@pytest.mark.parametrize(("m", "n", "k", "dtype"), [case if case[0] == 7 else later(*case) for case in CASES])
def test_gated_candidates(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    x, weight, bias = draw(m, k, dtype=dtype) * 0.1, draw(n, k, dtype=dtype), draw(n, dtype=dtype)
    for config in linear.candidates(m, n, k, dtype):
        for shift in (None, bias):
            wide = (x.double(), weight.double(), None if shift is None else shift.double())
            close(linear.run(x, weight, shift, config, "silu"), ops.gated_linear.reference(*wide, "silu"))


@device_test
@pytest.mark.parametrize("kind", ops.ACTIVATIONS)
@pytest.mark.parametrize("m", [later(1), 3, later(65)])
def test_gated_linear(m: int, kind: str) -> None:
    x, weight, bias = (draw(*size, dtype=torch.float32) for size in ((2, m, 96), (2 * 33, 96), (2 * 33,)))
    x = x * 0.1
    check(ops.gated_linear, x, weight, bias, kind)
    check(ops.gated_linear, x[0, 0], weight, None, kind)


@device_test
@pytest.mark.parametrize(("m", "matrix_units"), [(1, False), (5, True)])
def test_gated_shares(m: int, matrix_units: bool) -> None:
    x, weight, bias = (draw(*size, dtype=torch.float32) for size in ((m, 96), (2 * 33, 96), (2 * 33,)))
    config = linear.SkinnyConfig(16, 32, split_k=3, matrix_units=matrix_units)
    close(linear.run(x, weight, bias, config, "silu"), ops.gated_linear.reference(x, weight, bias, "silu"))


@device_test
def test_leading_dimensions() -> None:
    x, weight = draw(2, 3, 64, dtype=torch.float32), draw(20, 64, dtype=torch.float32)
    close(linear.linear(x, weight), torch.nn.functional.linear(x, weight))
    close(linear.linear(x[0, 0], weight), torch.nn.functional.linear(x[0, 0], weight))


@device_test
def test_many_rows_are_for_pytorch() -> None:
    assert linear.candidates(65, 64, 64, torch.float32) == ()
    x, weight = draw(65, 64, dtype=torch.float32), torch.eye(64, device=DEVICE)
    assert torch.equal(linear.linear(x, weight), x)
    with pytest.raises(ValueError, match="65 rows are more than the 64"):
        linear.run(x, weight, None, linear.SkinnyConfig(16, 32))
    with pytest.raises(ValueError, match="2 rows are more than the 1"):
        linear.run(x[:2], weight, None, linear.ONE_ROW[0])

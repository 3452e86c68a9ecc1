"""Projections that add a residual: every kernel in every configuration, beside the library's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels import builtin_kernels
from tests.kernels.device import INTERPRETED, close, device_test, draw

summed = pytest.importorskip("autodeploy.kernels.triton.residual_linear")
linear = pytest.importorskip("autodeploy.kernels.triton.linear")
tiles = pytest.importorskip("autodeploy.kernels.triton.tiles_linear")

HALF = torch.float16
# Outputs, columns and dtypes: every configuration of each is a kernel to compile.
SHAPES = (
    [(64, 512, HALF), (48, 304, HALF)]
    if INTERPRETED
    else [(4096, 14336, torch.bfloat16), (1000, 1104, HALF), (1000, 1104, torch.float32)]
)
ROWS = [1, 5, 40, 70] if INTERPRETED else [1, 7, 33, 64, 200, 1100]


def operands(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Of a sum whose terms are of a size."""
    return draw(m, 2 * k, dtype=dtype)[:, k:] * 0.1, draw(n, k, dtype=dtype), draw(m, n, dtype=dtype)


def exact(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    return x.double() @ weight.double().T + residual.double()


@device_test
@pytest.mark.parametrize(("n", "k", "dtype"), SHAPES)
@pytest.mark.parametrize("m", ROWS)
def test_candidates(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    given = operands(m, n, k, dtype)
    before, expected = given[2].clone(), exact(*given)
    for config in linear.candidates(m, n, k, dtype):
        close(summed.bind(config)(*given), expected)
    for config in tiles.candidates(m, n, k, dtype):
        close(summed.bind_tiles(config)(*given), expected)
    assert torch.equal(given[2], before)


@device_test
@pytest.mark.parametrize(("m", "way"), [(1, "vector"), (5, "skinny"), (5, "ring"), (40, "tiles")])
@pytest.mark.parametrize("split", [2, 7])
def test_the_residual_is_added_once_to_shares(m: int, way: str, split: int) -> None:
    given = operands(m, 33, 96, torch.float16)
    if way in ("vector", "skinny"):
        config = linear.SkinnyConfig(16, 32, split_k=split, matrix_units=way == "skinny")
        close(summed.bind(config)(*given), exact(*given))
    else:
        config = tiles.TileConfig(16, 32, 32, split, num_warps=4, num_stages=2, ring=way == "ring")
        close(summed.bind_tiles(config)(*given), exact(*given))


@device_test
@pytest.mark.parametrize("m", [3, 70])
def test_a_result_may_lie_where_the_residual_was(m: int) -> None:
    given = operands(m, 40, 64, torch.float32)
    before, expected = given[2].clone(), exact(*given)
    for run in (summed.library, summed.residual_linear):
        close(run(*given), expected)
        assert torch.equal(given[2], before)
    assert summed.library_over(*given) is given[2]
    close(given[2], expected)
    close(summed.residual_linear_over(given[0], given[1], before), expected)


@device_test
def test_a_residual_with_gaps_or_overlaps_is_copied() -> None:
    x, weight, _ = operands(6, 40, 64, torch.float32)
    wide, row = draw(6, 80, dtype=torch.float32), draw(1, 40, dtype=torch.float32)
    for residual in (wide[:, ::2], row.expand(6, 40)):
        before = residual.clone()
        for run in (summed.library_over, summed.residual_linear):
            close(run(x, weight, residual), exact(x, weight, before))
            assert torch.equal(residual, before)


@device_test
def test_leading_dimensions() -> None:
    x, weight, residual = (draw(*size, dtype=torch.float32) for size in ((2, 3, 64), (20, 64), (2, 3, 20)))
    for run in (summed.library, summed.library_over, summed.residual_linear):
        close(run(x, weight, residual.clone()), exact(x, weight, residual))


def test_the_library_serves_beside_ours() -> None:
    table = builtin_kernels("cuda")
    found = {kernel.backend for kernel in table if kernel.op is ops.residual_linear}
    assert found == {"triton", "tma", "mma", "library", "torch"}
    over = table.overwriting().find(ops.residual_linear.overload, "library")
    assert over is not None
    assert over.run is summed.library_over

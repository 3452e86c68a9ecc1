"""Matmuls of tiles: every candidate, shares of columns, and rows that do not lie as the accelerator wants them."""

from __future__ import annotations

import pytest
import torch

from autodeploy import ops
from autodeploy.kernels import builtin_kernels
from tests.kernels.device import INTERPRETED, close, device_test, draw, later

tiles = pytest.importorskip("autodeploy.kernels.triton.tiles_linear")
shares = pytest.importorskip("autodeploy.kernels.triton.shares")

HALF = torch.float16
SHAPES = [(64, 512, HALF), (48, 304, HALF)] if INTERPRETED else [(4096, 14336, torch.bfloat16), (1000, 1104, HALF)]
ROWS = [5, 40, 70] if INTERPRETED else [1, 7, 33, 200, 1100]


@device_test
@pytest.mark.parametrize(("n", "k", "dtype"), SHAPES)
@pytest.mark.parametrize("m", ROWS)
def test_candidates(m: int, n: int, k: int, dtype: torch.dtype) -> None:
    x, weight, bias = draw(m, 2 * k, dtype=dtype)[:, k:] * 0.1, draw(n, k, dtype=dtype), draw(n, dtype=dtype)
    wide = (x.double(), weight.double(), bias.double())
    for config in tiles.candidates(m, n, k, dtype):
        close(tiles.bind(config)(x, weight, bias), ops.linear.reference(*wide))
    for config in tiles.gated_candidates(m, n, k, dtype):
        close(tiles.bind(config)(x, weight, bias, "silu"), ops.gated_linear.reference(*wide, "silu"))


@device_test
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("gate", [None, "gelu_tanh"])
@pytest.mark.parametrize("split", [later(2), 7])
def test_shares(split: int, gate: str | None, ring: bool) -> None:
    """Shares that are unequal, some that are empty, and rows that tiles do not divide, twice: counters start anew."""
    x, weight, bias = (draw(*size, dtype=torch.float16) * 0.3 for size in ((40, 96), (2 * 33, 96), (2 * 33,)))
    wide = (x.double(), weight.double(), bias.double())
    config = tiles.TileConfig(64 if ring else 16, 32, 32, split, num_warps=4, num_stages=2, ring=ring)
    for _ in range(2):
        out = tiles.run(x, weight, bias, config, gate)
        close(out, ops.linear.reference(*wide) if gate is None else ops.gated_linear.reference(*wide, gate))
    assert not shares.counters(x.device).any()


@device_test
def test_rows_that_do_not_lie_on_16_bytes_are_copied() -> None:
    config = tiles.TileConfig(16, 32, 32, num_warps=4, num_stages=2)
    x, weight = draw(2, 5, 67, dtype=torch.float16)[..., 3:], draw(40, 64, dtype=torch.float16)
    for rows in (x, x[0, 0], x.transpose(0, 1)):
        close(tiles.run(rows, weight, None, config), rows.double() @ weight.double().T)
    assert tiles.run(x[:0], weight, None, config).shape == (0, 5, 40)


def test_what_cannot_be_described_has_no_candidates() -> None:
    assert tiles.candidates(8, 64, 60, torch.float16) == ()
    assert tiles.candidates(8, 64, 64, torch.float32) == ()


@device_test
def test_neighbours_share_weights() -> None:
    """More tiles of rows than go together, the last of them fewer."""
    x, weight = draw(16 * 11 - 3, 64, dtype=torch.float16), draw(3 * 32, 64, dtype=torch.float16)
    config = tiles.TileConfig(16, 32, 32, num_warps=4, num_stages=2)
    close(tiles.run(x, weight, None, config), x.double() @ weight.double().T)


@device_test
def test_every_number_of_rows_has_candidates() -> None:
    for rows in (1, 17, 33, 65, 96, 129, 256, 512, 8192):
        found = {*tiles.candidates(rows, 64, 64, torch.float16), *tiles.gated_candidates(rows, 64, 64, torch.float16)}
        assert found
        assert all(not config.ring or config.block_m >= rows for config in found)


def test_the_backend_holds_them_beside_the_others() -> None:
    table = builtin_kernels("cuda")
    for op in (ops.linear, ops.gated_linear):
        assert table.find(op.overload, "tma") is not None
        assert table.find(op.overload, "triton") is not None


def test_more_tiles_than_counters_are_refused() -> None:
    assert shares.shares_of(shares.MAX_TILES + 1, 1, 16, torch.device("cpu")).numel() == 0
    with pytest.raises(ValueError, match=f"{shares.MAX_TILES + 1} tiles are more than the {shares.MAX_TILES}"):
        shares.shares_of(shares.MAX_TILES + 1, 2, 16, torch.device("cpu"))

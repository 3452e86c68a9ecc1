"""`ops.linear` for up to 64 rows, and the configurations of its kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from autodeploy.kernels.triton.launch import current_device, overlap, shared_memory
from autodeploy.kernels.triton.rows import dense
from autodeploy.kernels.triton.shares import counters, shares_of
from autodeploy.kernels.triton.skinny import matvec_kernel, skinny_kernel

MAX_ROWS = 64


@dataclass(frozen=True)
class SkinnyConfig:
    """How the work of one matmul is cut: rows of the weight a program, columns a turn, programs that share a row.

    Without `matrix_units`, which is for one row of x only, it is a matrix-vector product on the ordinary units.
    """

    block_n: int
    block_k: int
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 4
    matrix_units: bool = True

    def shared_bytes(self, m: int, dtype: torch.dtype) -> int:
        """The shared memory of a program for m rows: the tiles on their way."""
        if not self.matrix_units:
            return 0
        return self.num_stages * self.block_k * (self.block_n + _block_m(m)) * dtype.itemsize


ONE_ROW = tuple(
    SkinnyConfig(block_n, block_k, num_warps=num_warps, num_stages=1, matrix_units=False)
    for block_n, block_k, num_warps in ((2, 4096, 4), (2, 4096, 8), (2, 2048, 4), (4, 1024, 4), (4, 2048, 4))
)
"""On the ordinary units, whose weights are on their way before the inputs are there."""
FEW_ROWS = (
    SkinnyConfig(64, 128, split_k=2),
    SkinnyConfig(64, 128, split_k=2, num_stages=6),
    SkinnyConfig(64, 128, split_k=4),
    SkinnyConfig(64, 128, num_stages=6),
    SkinnyConfig(64, 128),
    SkinnyConfig(128, 128),
    SkinnyConfig(128, 128, split_k=2),
)
SMALL = SkinnyConfig(64, 64, num_stages=3)
"""Fits where shared memory is short."""
WIDE = 12288
"""From so many rows of the weight on, a weight occupies an H200 without its rows being shared."""


def _block_m(m: int) -> int:
    return max(16, int(triton.next_power_of_2(m)))


def _columns(config: SkinnyConfig, k: int, dtype: torch.dtype) -> int:
    """The columns a turn for rows of k: half of them where their elements have twice the bytes."""
    most = config.block_k // 2 if config.matrix_units and dtype == torch.float32 else config.block_k
    return min(most, max(int(triton.next_power_of_2(k)), 16))


def candidates(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[SkinnyConfig, ...]:
    """The configurations worth timing for m rows of a `[n, k]` weight, best guess first; none past MAX_ROWS rows.

    All fit the current device's shared memory.
    """
    if m > MAX_ROWS:
        return ()
    configs: tuple[SkinnyConfig, ...]
    if m == 1:
        configs = tuple(sorted(ONE_ROW, key=lambda config: k % config.block_k > 0))
    else:
        configs = (*sorted(FEW_ROWS, key=lambda config: (config.split_k > 1) == (n >= WIDE)), SMALL)
    cut = dict.fromkeys(replace(one, block_k=_columns(one, k, dtype)) for one in configs)
    return tuple(one for one in cut if one.shared_bytes(m, dtype) <= shared_memory(current_device()))


def best_guess(m: int, weight: Tensor) -> SkinnyConfig | None:
    """The first candidate for m rows; None where there is none."""
    return next(iter(candidates(m, weight.shape[0], weight.shape[1], weight.dtype)), None)


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    config: SkinnyConfig,
    gate: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """`ops.linear` of up to MAX_ROWS rows (one without matrix units) in a configuration, ValueError for more.

    With the name of an activation as gate, it is `ops.gated_linear`; with a residual, `ops.residual_linear`.
    """
    k, n = x.shape[-1], weight.shape[0] if gate is None else weight.shape[0] // 2
    rows = x.reshape(-1, k)
    m = rows.shape[0]
    most = MAX_ROWS if config.matrix_units else 1
    if m > most:
        raise ValueError(f"{m} rows are more than the {most} that a skinny matmul takes")
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    split, block_n = config.split_k, config.block_n if gate is None else max(config.block_n, 2)
    tiles = triton.cdiv(weight.shape[0], block_n)
    options = {
        "gate": gate,
        "shared": split > 1,
        "even": weight.shape[0] % block_n == 0 and k % (config.block_k * split) == 0,
        "BLOCK_N": block_n,
        "BLOCK_K": config.block_k,
        "STAGES": config.num_stages,
        "num_warps": config.num_warps,
        **overlap(x.device),
    }
    block_m = _block_m(m) if config.matrix_units else 1
    shares = shares_of(tiles, split, block_n * block_m, x.device)
    given = (rows, weight, bias, dense(residual), out, shares, counters(x.device))
    if not config.matrix_units:
        matvec_kernel[(tiles, split)](*given, n, k, split, **options)
    else:
        skinny_kernel[(tiles, split)](*given, m, n, k, split, rows.stride(0), BLOCK_M=block_m, **options)
    return out


def bind(config: SkinnyConfig) -> Callable[..., Tensor]:
    """`ops.linear` in a given configuration."""

    def projection(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return run(x, weight, bias, config)

    return projection


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`ops.linear`: the first candidate that fits up to MAX_ROWS rows, PyTorch's own matmul past them."""
    config = best_guess(x.shape[:-1].numel(), weight)
    return torch.nn.functional.linear(x, weight, bias) if config is None else run(x, weight, bias, config)

"""`ops.linear` and `ops.gated_linear` through the tensor memory accelerator, and the configurations of their kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from autodeploy.kernels.triton.launch import current_device, overlap, shared_memory
from autodeploy.kernels.triton.ring import ring_kernel
from autodeploy.kernels.triton.rows import dense, described
from autodeploy.kernels.triton.shares import counters, shares_of
from autodeploy.kernels.triton.tiles import tiles_kernel


@dataclass(frozen=True)
class TileConfig:
    """How the work is cut: rows of the batch and of the weight a program, columns a turn, programs that share a tile.

    With a gate, a program has `block_n` rows of the weight in all: half of them the gate's. A `ring`, for as many rows
    as one program takes, asks for weights before the inputs are there.
    """

    block_m: int
    block_n: int
    block_k: int = 64
    split_k: int = 1
    num_warps: int = 8
    num_stages: int = 4
    ring: bool = False

    def shared_bytes(self, dtype: torch.dtype) -> int:
        """The shared memory of a program: the blocks on their way, and the barriers they arrive at."""
        rows = self.num_stages * self.block_n + (1 if self.ring else self.num_stages) * self.block_m
        return rows * self.block_k * dtype.itemsize + 1024


FEW_ROWS = (
    TileConfig(16, 64, 512, 1, 4, 3, ring=True),
    TileConfig(16, 64, 256, 2, 4, 3, ring=True),
    TileConfig(16, 64, 256, 4, 4, 3, ring=True),
    TileConfig(16, 64, 128, 1, 4, 3, ring=True),
)
SOME_ROWS = (TileConfig(64, 64, 128, 1, 4, 6), TileConfig(64, 128, 128, 1, 8, 4))
MANY_ROWS = (
    TileConfig(128, 256),
    TileConfig(128, 128, num_stages=6),
    TileConfig(128, 64, 128, num_warps=4),
    TileConfig(256, 128),
)
LARGE_TILES = (TileConfig(128, 256), TileConfig(256, 128))
FEW_GATED_ROWS = (TileConfig(16, 128, 128, 1, 4, 3, ring=True),)
SOME_GATED_ROWS = SOME_ROWS[1:]
MANY_GATED_ROWS = (*LARGE_TILES, MANY_ROWS[1])
LARGE = 512
"""Past so many rows, only what does the most arithmetic for each byte is worth a try."""


def candidates(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[TileConfig, ...]:
    """The configurations worth timing for m rows of a `[n, k]` weight, best guess first, that fit the current device.

    None for float32, and for rows that do not lie on 16 bytes.
    """
    return _fitting(m, k, dtype, FEW_ROWS, SOME_ROWS, MANY_ROWS)


def gated_candidates(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[TileConfig, ...]:
    """Those for a weight that stacks a gate and what it gates, so that a program's rows fill the instruction twice."""
    return _fitting(m, k, dtype, FEW_GATED_ROWS, SOME_GATED_ROWS, MANY_GATED_ROWS)


def _fitting(m: int, k: int, dtype: torch.dtype, *by_size: tuple[TileConfig, ...]) -> tuple[TileConfig, ...]:
    few, some, many = by_size
    if dtype == torch.float32 or k * dtype.itemsize % 16:
        return ()
    if m <= 32:
        tried = tuple(replace(one, block_m=16 if m <= 16 else 32) for one in few)
    elif m <= 64:
        tried = some
    else:
        tried = tuple(one for one in many if one.block_m < 2 * m) if m <= LARGE else LARGE_TILES
    room = shared_memory(current_device())
    return tuple(one for one in tried if one.shared_bytes(dtype) <= room)


def can_be_described(x: Tensor) -> bool:
    """Whether rows can be brought by the accelerator as they lie in memory: 16 bytes at a time."""
    step = x.stride(-2) * x.itemsize if x.dim() > 1 else 0
    return x.stride(-1) == 1 and step % 16 == 0 and x.data_ptr() % 16 == 0


def run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    config: TileConfig,
    gate: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """`ops.linear` in a configuration; `ops.gated_linear` with the name of an activation as gate.

    With a residual it is `ops.residual_linear`.

    Rows of the weight must be a multiple of 16 bytes; ValueError for more shares than there are counters for.
    """
    k, n = x.shape[-1], weight.shape[0] if gate is None else weight.shape[0] // 2
    rows = x.reshape(-1, k)
    m = rows.shape[0]
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    rows, weight = (one if can_be_described(one) else one.contiguous().clone() for one in (rows, weight))
    block_n = config.block_n if gate is None else config.block_n // 2
    tiles, split = triton.cdiv(m, config.block_m) * triton.cdiv(n, block_n), config.split_k
    given = (
        described(weight, block_n, config.block_k),
        dense(bias),
        dense(residual),
        out,
        shares_of(tiles, split, config.block_m * config.block_n, x.device),
        counters(x.device),
        m,
        n,
        k,
        split,
    )
    options = {
        "gate": gate,
        "shared": split > 1,
        "BLOCK_M": config.block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": config.block_k,
        "STAGES": config.num_stages,
        "num_warps": config.num_warps,
        **overlap(x.device),
    }
    if config.ring:
        ring_kernel[(tiles, split)](rows, *given, rows.stride(0), **options)
    else:
        tiles_kernel[(tiles * split,)](described(rows, config.block_m, config.block_k), *given, **options)
    return out


def bind(config: TileConfig) -> Callable[..., Tensor]:
    """`ops.linear`, and with the name of an activation `ops.gated_linear`, in a given configuration."""

    def projection(x: Tensor, weight: Tensor, bias: Tensor | None = None, gate: str | None = None) -> Tensor:
        return run(x, weight, bias, config, gate)

    return projection

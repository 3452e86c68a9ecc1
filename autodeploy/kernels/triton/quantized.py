"""What the skinny matmuls of quantized weights have in common: configurations, and the layouts of scales."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from autodeploy.kernels.triton.launch import current_device, overlap, overlaps, shared_memory
from autodeploy.kernels.triton.shares import counters, shares_of

WIDE_ROWS = 16  # of x at least, for the compiler to use the instructions that read both operands in shared memory
LEAST_ROWS = 8  # that fill the matrix units, where they take their left operand from registers
BLOCK = 128  # the edge of a block of weights that share a scale


@dataclass(frozen=True)
class QuantizedConfig:
    """How the work of one matmul is cut: rows of the weight a program, columns a turn, programs that share a row.

    The `way` is "skinny", through the matrix units, for as many rows of x a program as there are, up to `block_m`;
    "vector", for one row on the ordinary units; "ring" and "tiles", for few and for many rows and weights brought by
    the tensor memory accelerator, with a gate half of the `block_n` rows from each half of the weight; "direct", for
    few rows and weights that go straight into registers, `num_stages` units a warp at once; or "library", for PyTorch's
    own matmul, where nothing is to be cut. With `held`, a skinny matmul asks for its first tile of weights before the
    inputs are there.
    """

    block_n: int = 0
    block_k: int = 0
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 4
    block_m: int = 64
    way: str = "skinny"
    held: bool = False


LIBRARY = QuantizedConfig(way="library")
RING_BARRIERS = 1024


@dataclass(frozen=True)
class ScaleLayout:
    """How many rows of a weight share a scale (0: all of them), and how many columns (0: all of them)."""

    rows: int
    group: int

    @classmethod
    def of(cls, scale: Tensor, n: int, k: int, blocked: bool) -> ScaleLayout:
        """The layout of `scale` for a weight `[n, k]`; with `blocked`, several scales a row are those of blocks."""
        rows, groups = scale.shape
        group = BLOCK if blocked else k // groups
        return cls(1 if rows == n else 0 if rows == 1 else BLOCK, 0 if groups == 1 else group)


def fit(config: QuantizedConfig, k: int, group: int = 0) -> QuantizedConfig:
    """The configuration with turns that rows of k fill, none longer than a group of columns where there are groups."""
    columns = min(config.block_k, max(int(triton.next_power_of_2(k)), 32))
    return replace(config, block_k=min(columns, group or columns))


def can_be_brought(size: int) -> bool:
    """Whether the tensor memory accelerator is here, and can bring rows of `size` bytes."""
    return size % 16 == 0 and overlaps(current_device())


def rows_of_program(config: QuantizedConfig, m: int, least: int = LEAST_ROWS) -> int:
    """How many rows of x a program on the matrix units has room for, when there are m."""
    return max(least, min(int(triton.next_power_of_2(m)), config.block_m))


def fitting(
    configs: Iterable[QuantizedConfig], m: int, k: int, x_size: int, weight_size: float = 1.0
) -> tuple[QuantizedConfig, ...]:
    """Those that can run here for m rows of k elements of `x_size` bytes, and weights of `weight_size`."""
    room = shared_memory(current_device())
    return tuple(one for one in configs if _shared_bytes(one, m, k, x_size, weight_size) <= room)


def _shared_bytes(config: QuantizedConfig, m: int, k: int, x_size: int, weight_size: float) -> float:
    """The tiles on their way in a program, or the sums on their way out."""
    if config.way in ("vector", "library"):
        return 0
    if config.way == "ring":
        rows = rows_of_program(config, m, WIDE_ROWS)
        return config.block_k * (config.num_stages * config.block_n * weight_size + rows * x_size) + RING_BARRIERS
    columns, rows = fit(config, k).block_k, rows_of_program(config, m)
    tiles = columns * (config.block_n * weight_size + rows * x_size)
    return max(config.num_stages * tiles, 4.0 * config.block_n * rows)


def rows_for(x: Tensor, config: QuantizedConfig) -> Tensor:
    """x as dense rows; ValueError for several where a configuration takes one."""
    rows = x.reshape(-1, x.shape[-1])
    if config.way == "vector" and rows.shape[0] > 1:
        raise ValueError(f"{rows.shape[0]} rows are more than the one that a matrix-vector product takes")
    return rows if rows.stride(1) == 1 else rows.contiguous()


@dataclass(frozen=True)
class Launch:
    """What the skinny kernels of a weight `[n, k]` take besides their operands, for m rows of x."""

    grid: tuple[int, int, int]
    shares: Tensor
    counters: Tensor
    options: dict[str, Any]

    @classmethod
    def of(
        cls,
        config: QuantizedConfig,
        m: int,
        n: int,
        k: int,
        gate: str | None,
        device: torch.device,
        least_rows: int = LEAST_ROWS,
    ) -> Launch:
        """In a configuration; with a gate, a program has a row at least of each half."""
        split, block_n = config.split_k, config.block_n if gate is None else max(config.block_n, 2)
        tiles = triton.cdiv(n, block_n)
        even = n % block_n == 0 and k % (config.block_k * split) == 0
        rows = rows_of_program(config, m, least_rows) if config.way == "skinny" else 1
        blocks = triton.cdiv(m, rows)
        options = {
            "gate": gate,
            "shared": split > 1,
            "even": even,
            "BLOCK_N": block_n,
            "BLOCK_K": config.block_k,
            "STAGES": config.num_stages,
            "num_warps": config.num_warps,
            **overlap(device),
        }
        if config.way == "skinny":
            options |= {"held": config.held and even, "BLOCK_M": rows}
        return cls(
            (tiles, split, blocks), shares_of(tiles * blocks, split, block_n * rows, device), counters(device), options
        )


@dataclass(frozen=True)
class RingLaunch:
    """What the rings take besides their operands, for m rows of x and a result of n columns."""

    grid: tuple[int, int]
    block_n: int
    shares: Tensor
    counters: Tensor
    options: dict[str, Any]

    @classmethod
    def of(cls, config: QuantizedConfig, m: int, n: int, gate: str | None, device: torch.device) -> RingLaunch:
        """In a configuration; with a gate, a program takes `block_n` rows of each half."""
        split, rows = config.split_k, rows_of_program(config, m, WIDE_ROWS)
        block_n = config.block_n if gate is None else config.block_n // 2
        tiles = triton.cdiv(n, block_n)
        options = {
            "gate": gate,
            "shared": split > 1,
            "BLOCK_M": rows,
            "BLOCK_N": block_n,
            "STAGES": config.num_stages,
            "num_warps": config.num_warps,
            **overlap(device),
        }
        shares = shares_of(tiles, split, config.block_n * rows, device)
        return cls((tiles, split), block_n, shares, counters(device), options)

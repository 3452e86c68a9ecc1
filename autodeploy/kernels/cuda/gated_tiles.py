"""`ops.gated_linear` of many rows on Hopper by `gated_tiles.cu`: how the work is cut, and how it is launched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autodeploy.kernels.cuda import why_unavailable
from autodeploy.kernels.cuda.compile import Variant
from autodeploy.kernels.cuda.launch import launch
from autodeploy.kernels.cuda.tensor_map import described
from autodeploy.kernels.triton.launch import current_device, multiprocessors
from autodeploy.kernels.triton.tiles_linear import can_be_described
from autodeploy.ops import ACTIVATIONS

TOKENS = 128
WIDE = 128
"""Rows of x a tile, and of the gate, beside which it has those that they gate."""
NARROW = 32
"""Rows of the gate in the smallest part of a tile."""
COLUMNS = 64
PARTS = (4, 2)
SHARED_BYTES = 4 * (TOKENS + 2 * WIDE) * COLUMNS * 2 + TOKENS * WIDE * 2 + 2048
"""A ring of four blocks of columns, a result, barriers, and what lies before an address that boxes can begin at."""
KINDS = {name: number for number, name in enumerate(ACTIVATIONS)}
"""By the numbers that the kernel has for activations."""
FEWEST = 256
"""Rows of x below which tiles leave multiprocessors idle."""


@dataclass(frozen=True)
class GatedTileConfig:
    """How many programs share what they read of the weight, and how many tiles of x meet the same weights in turn."""

    cluster: int = 2
    neighbours: int = 16


CONFIGS = (GatedTileConfig(), GatedTileConfig(neighbours=32))


@dataclass(frozen=True)
class Cut:
    """Tiles, `rows` (of clusters) by `columns`, and programs for them, a multiprocessor each.

    The last `rest` tiles, which would occupy few programs, are cut into `parts`.
    """

    rows: int
    columns: int
    rest: int
    parts: int
    programs: int


def cut_of(m: int, n: int, cluster: int, processors: int) -> Cut:
    """The tiles of m rows of x by n of the gate."""
    rows, columns, clusters = -(-m // (TOKENS * cluster)), -(-n // WIDE), processors // cluster
    tiles = rows * columns
    rest = tiles % clusters
    parts = next((parts for parts in PARTS if 0 < rest * parts <= clusters), 1)
    rest = rest if parts > 1 else 0
    return Cut(rows, columns, rest, parts, cluster * min(clusters, max(tiles - rest, rest * parts)))


def candidates(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[GatedTileConfig, ...]:
    """The configurations worth timing for m rows of a `[n, k]` weight; none where the kernel does not serve them.

    It serves 16-bit numbers whose rows lie on 16 bytes, of x, of the weight and of the result.
    """
    narrow = dtype in (torch.bfloat16, torch.float16)
    aligned = k % 8 == 0 and n % 16 == 0
    return CONFIGS if narrow and aligned and m >= FEWEST and serves(current_device()) else ()


def serves(device: torch.device) -> bool:
    """Whether the kernel can be compiled for a device, which must be of compute capability 9.0, and run on it."""
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)
    return hopper and why_unavailable() is None


def variant_of(dtype: torch.dtype, has_bias: bool, kind: str, config: GatedTileConfig) -> Variant:
    """The kernel for operands of a dtype."""
    numbers = {
        "BF16": int(dtype == torch.bfloat16),
        "KIND": KINDS[kind],
        "HAS_BIAS": int(has_bias),
        "CLUSTER": config.cluster,
    }
    return Variant("gated_tiles.cu", "gated_tiles", tuple(numbers.items()))


def run(x: Tensor, weight: Tensor, bias: Tensor | None, config: GatedTileConfig, kind: str) -> Tensor:
    """`ops.gated_linear` in a configuration, of what `candidates` says is served."""
    k, n = x.shape[-1], weight.shape[0] // 2
    rows = x.reshape(-1, k)
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    rows, weight = (one if can_be_described(one) else one.contiguous().clone() for one in (rows, weight))
    result = out.view(-1, n)
    cut = cut_of(rows.shape[0], n, config.cluster, multiprocessors(x.device))
    given = (
        described(rows, TOKENS, COLUMNS),
        described(weight, WIDE, COLUMNS),
        described(weight, NARROW, COLUMNS),
        described(result, TOKENS // 2, 64),
        described(result, TOKENS // 2, NARROW),
        None if bias is None else bias.contiguous(),
        cut.rows,
        cut.columns,
        n,
        -(-k // COLUMNS),
        config.neighbours // config.cluster,
        cut.rest,
        cut.parts,
    )
    variant = variant_of(x.dtype, bias is not None, kind, config)
    launch(variant, (cut.programs, 1, 1), 384, SHARED_BYTES, given, x.device)
    return out


def bind(config: GatedTileConfig) -> Callable[..., Tensor]:
    """`ops.gated_linear` in a given configuration."""

    def projection(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        return run(x, weight, bias, config, kind)

    return projection

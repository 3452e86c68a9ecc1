"""Projections of some rows by int4 in groups on Hopper, by the kernel `packed_tiles`: running it in a configuration."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import torch
from torch import Tensor

from autodeploy.kernels.cuda.compile import Variant
from autodeploy.kernels.cuda.gates import GATES
from autodeploy.kernels.cuda.launch import launch
from autodeploy.kernels.cuda.lines import aligned
from autodeploy.kernels.cuda.packed import projection
from autodeploy.kernels.cuda.packed_tiles_plan import COLUMNS, PackedTileConfig, tokens_of
from autodeploy.kernels.cuda.tensor_map import described
from autodeploy.kernels.triton.rows import dense
from autodeploy.kernels.triton.tiles_linear import can_be_described

PAIR_WORDS = 2 * COLUMNS // 4
"""Of 16 bits, four weights each, in two groups."""


def bind(config: PackedTileConfig) -> Callable[..., Tensor]:
    """`ops.packed_linear` and `ops.packed_gated_linear` in a configuration, of int4."""
    return projection(lambda x, weight, scale, _, bias, gate: run(x, weight, scale, bias, config, gate))


def run(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, config: PackedTileConfig, gate: str | None = None
) -> Tensor:
    """`x [..., k]` of 16-bit floats by a weight uint8 `[n, k/2]`, or `[2 n, k/2]` with a gate -> `[..., n]`.

    The scale, of x's dtype, is `[n, k/128]`. It is for what `packed_tiles_plan.declines` does not decline. Raises
    CompileError and LaunchError.
    """
    n = weight.shape[0] if gate is None else weight.shape[0] // 2
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    if out.numel():
        rows = x.reshape(-1, x.shape[-1])
        rows = rows if can_be_described(rows) else rows.contiguous().clone()
        _fill(rows, aligned(weight), aligned(scale), dense(bias), out, config, gate)
    return out


def _fill(
    rows: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    out: Tensor,
    config: PackedTileConfig,
    gate: str | None,
) -> None:
    (m, k), n = rows.shape, out.shape[-1]
    boxes = described(weight.view(torch.float16), 16 if gate is None else 8, PAIR_WORDS)  # what a warp asks for
    launch(
        variant_of(m, k, out.dtype, config, gate),
        (ceil(weight.shape[0] / config.rows) * config.split, 1, 1),
        2 * config.rows + 128,
        config.shared_bytes(m, k // COLUMNS),
        (boxes, scale, rows, bias, out, m, n, rows.stride(0) * rows.itemsize),
        rows.device,
        config.split,
    )


def variant_of(m: int, k: int, dtype: torch.dtype, config: PackedTileConfig, gate: str | None) -> Variant:
    """The kernel for x `[m, k]` in dtype, in a configuration."""
    numbers = {
        "TOKENS": tokens_of(m),
        "SLABS": config.slabs,
        "SPLIT": config.split,
        "GROUPS": k // COLUMNS,
        "W_STAGES": config.w_stages,
        "X_STAGES": config.x_stages,
        "AHEAD": config.ahead,
        "HALF": int(dtype == torch.float16),
        "GATE": GATES[gate],
    }
    return Variant("packed_tiles.cu", "packed_tiles", tuple(numbers.items()))

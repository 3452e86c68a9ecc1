"""`ops.scaled_linear` and `ops.scaled_gated_linear`: the ways to compute them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from autodeploy.kernels.storage import Storage
from autodeploy.kernels.triton import direct_plan
from autodeploy.kernels.triton.activation import gated_activation
from autodeploy.kernels.triton.launch import overlap
from autodeploy.kernels.triton.quantized import (
    LIBRARY,
    WIDE_ROWS,
    Launch,
    QuantizedConfig,
    ScaleLayout,
    can_be_brought,
    fit,
    fitting,
    rows_for,
)
from autodeploy.kernels.triton.rows import dense
from autodeploy.kernels.triton.scaled_ring import scaled_ring
from autodeploy.kernels.triton.scaled_skinny import scaled_matvec_kernel, scaled_skinny_kernel
from autodeploy.kernels.triton.scaled_tiles import scaled_tiles_kernel

ONE_ROW = tuple(
    QuantizedConfig(block_n, block_k, 1, num_warps, 1, way="vector")
    for block_n, block_k, num_warps in ((2, 2048, 2), (4, 4096, 4))
)
"""Small programs start beside those of the kernel before; alone, four rows by 2,048 are 2 to 5 % faster."""
FEW_ROWS = (
    QuantizedConfig(64, 256, 1, 4, 6),
    QuantizedConfig(64, 256, 2, 4, 6),
    QuantizedConfig(64, 256, 2, 4, 6, held=True),
    QuantizedConfig(64, 256, 4, 4, 4, held=True),
)
RINGS = (
    QuantizedConfig(128, 256, 1, 8, 3, way="ring"),
    QuantizedConfig(64, 256, 1, 4, 3, way="ring"),
    QuantizedConfig(64, 512, 2, 4, 3, way="ring"),
    QuantizedConfig(64, 512, 4, 4, 3, way="ring"),
)
SOME_ROWS = tuple(
    QuantizedConfig(block_n, block_k, split, num_warps, 6)
    for block_n, block_k, num_warps, split in ((64, 256, 4, 1), (64, 256, 4, 2), (64, 128, 4, 1), (128, 128, 8, 1))
)
TILES = tuple(
    QuantizedConfig(block_n, 128, 1, num_warps, num_stages, block_m, "tiles")
    for block_m, block_n, num_warps, num_stages in (
        (256, 128, 8, 4), (128, 256, 8, 4), (128, 64, 4, 5), (128, 128, 8, 4),
    )
)  # fmt: skip
BLOCKS = tuple(
    QuantizedConfig(block_n, 128, split, 8, 4, block_m)
    for block_m, block_n, split in ((128, 128, 1), (128, 64, 1), (64, 128, 1), (128, 64, 2))
)
"""For many rows where columns have scales of their own, or no tiles can be brought."""
FEW, SOME = 16, 64
"""So many rows of x fill the least, or the most, of what a skinny matmul multiplies at once."""
MOST_ROWS = 1024
"""Past so many, PyTorch's own matmul is the fastest."""


def candidates(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> tuple[QuantizedConfig, ...]:
    """The configurations worth timing for m rows of x and a result in dtype, the best guess first."""
    whole = storage.groups == 1 and storage.scale_rows in (1, n) and storage.x_groups <= 1
    if m > SOME:
        found = (*(TILES if whole and can_be_brought(k) else ()), *BLOCKS)
        library = (LIBRARY,) if whole and storage.format == "fp8" and _has_library(n, k, dtype) else ()
        return library if library and m > MOST_ROWS else fitting((*library, *found), m, k, 1)
    configs = FEW_ROWS if m <= FEW else SOME_ROWS
    if m <= FEW and whole and can_be_brought(k):
        configs = (*configs, *RINGS)
    if m == 1 and whole:
        configs = (*ONE_ROW, *configs[:1])
    return (*fitting(configs, m, k, 1), *direct_plan.candidates(m, n, k, dtype, storage))


def _has_library(n: int, k: int, dtype: torch.dtype) -> bool:
    """Whether PyTorch multiplies such a weight, with scales of whole rows."""
    return k % 16 == 0 and n % 16 == 0 and dtype == torch.bfloat16 and can_be_brought(k)


def first(m: int, weight: Tensor, dtype: torch.dtype, scale: Tensor, x_scale: Tensor) -> QuantizedConfig:
    """The best guess for m rows."""
    format = "int8" if weight.dtype == torch.int8 else "fp8"
    x_groups = x_scale.shape[-1] if x_scale.dim() else 0
    (n, k), (rows, groups) = weight.shape, scale.shape
    return candidates(m, n, k, dtype, Storage(format, "float32", rows, groups, x_groups=x_groups))[0]


def bind(config: QuantizedConfig) -> Callable[..., Tensor]:
    """`ops.scaled_linear` in a configuration."""

    def projection(
        x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        return run(x, x_scale, weight, weight_scale, bias, dtype, config)

    return projection


def bind_gated(config: QuantizedConfig) -> Callable[..., Tensor]:
    """`ops.scaled_gated_linear` in a configuration."""

    def projection(
        x: Tensor,
        x_scale: Tensor,
        weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        kind: str,
    ) -> Tensor:
        return run(x, x_scale, weight, weight_scale, bias, dtype, config, kind)

    return projection


def scaled_linear(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """`ops.scaled_linear` by the best guess."""
    config = first(x.shape[:-1].numel(), weight, dtype, weight_scale, x_scale)
    return run(x, x_scale, weight, weight_scale, bias, dtype, config)


def scaled_gated_linear(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    kind: str,
) -> Tensor:
    """`ops.scaled_gated_linear` by the best guess."""
    config = first(x.shape[:-1].numel(), weight, dtype, weight_scale, x_scale)
    return run(x, x_scale, weight, weight_scale, bias, dtype, config, kind)


def run(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    config: QuantizedConfig,
    gate: str | None = None,
) -> Tensor:
    """`ops.scaled_linear` in a configuration, ValueError for several rows on the ordinary units.

    With the name of an activation as gate, it is `ops.scaled_gated_linear`.
    """
    operands = (x, x_scale, weight, weight_scale, bias)
    if config.way == "library":
        return library(*operands, dtype, gate)
    n = weight.shape[0] if gate is None else weight.shape[0] // 2
    out = torch.empty((*x.shape[:-1], n), dtype=dtype, device=x.device)
    if out.numel():
        weight, weight_scale, bias = weight.contiguous(), weight_scale.contiguous(), dense(bias)
        start = {"tiles": _tiles, "ring": scaled_ring, "direct": _direct}.get(config.way, _skinny)
        start(rows_for(x, config), x_scale.contiguous(), weight, weight_scale, bias, out, config, gate)
    return out


def _skinny(
    rows: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out: Tensor,
    config: QuantizedConfig,
    gate: str | None,
) -> None:
    """Fill out by the skinny kernels."""
    (m, k), size = rows.shape, weight.shape[0]
    n = size if gate is None else size // 2
    layout = ScaleLayout.of(weight_scale, size, k, blocked=True)
    x_groups = 0 if x_scale.numel() == 1 else x_scale.shape[-1]
    x_group = k // x_groups if x_groups > 1 else 0
    config = fit(config, k, min((group for group in (layout.group, x_group) if group), default=0))
    launch = Launch.of(config, m, size, k, gate, rows.device, WIDE_ROWS)
    given = (rows, x_scale, weight, weight_scale, bias, out, launch.shares, launch.counters)
    if config.way == "vector":
        scaled_matvec_kernel[launch.grid](
            *given, n, k, config.split_k, x_groups, weight_scale.shape[1], SCALE_ROWS=layout.rows, **launch.options
        )
    else:
        scaled_skinny_kernel[launch.grid](
            *given, m, n, k, config.split_k, rows.stride(0), x_groups, weight_scale.shape[1],
            X_GROUP=x_group, SCALE_ROWS=layout.rows, WEIGHT_GROUP=layout.group, **launch.options,
        )  # fmt: skip


def _direct(
    rows: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out: Tensor,
    config: QuantizedConfig,
    gate: str | None,
) -> None:
    """Fill out by weights that go straight into registers."""
    from autodeploy.kernels.triton.direct_linear import Stored, fill_directly  # in Gluon: see `runs_gluon`

    fill_directly(rows, Stored("fp8", weight, weight_scale, None, x_scale), bias, out, config, gate)


def _tiles(
    rows: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out: Tensor,
    config: QuantizedConfig,
    gate: str | None,
) -> None:
    """Fill out by tiles."""
    (m, k), n = rows.shape, out.shape[-1]
    block_n = config.block_n if gate is None else config.block_n // 2
    grid = (triton.cdiv(m, config.block_m) * triton.cdiv(n, block_n),)
    scaled_tiles_kernel[grid](
        TensorDescriptor.from_tensor(rows, [config.block_m, config.block_k]),
        x_scale,
        TensorDescriptor.from_tensor(weight, [block_n, config.block_k]),
        weight_scale,
        bias,
        out,
        m,
        n,
        k,
        0 if x_scale.numel() == 1 else 1,
        gate=gate,
        integer=weight.dtype == torch.int8,
        SCALE_ROWS=0 if weight_scale.numel() == 1 else 1,
        BLOCK_M=config.block_m,
        BLOCK_N=block_n,
        BLOCK_K=config.block_k,
        STAGES=config.num_stages,
        num_warps=config.num_warps,
        **overlap(rows.device),
    )


def library(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    gate: str | None,
) -> Tensor:
    """The operator by PyTorch's own matmul of fp8 with scales of whole rows: n and k in multiples of 16, bfloat16."""
    rows = x.reshape(-1, x.shape[-1])
    by_row = x_scale.expand(*x.shape[:-1], 1).reshape(-1, 1).contiguous()
    by_column = weight_scale.expand(weight.shape[0], 1).T.contiguous()
    both = torch._scaled_mm(rows, weight.T, by_row, by_column, bias, out_dtype=dtype, use_fast_accum=True)
    both = both.view(*x.shape[:-1], -1)
    if gate is None:
        return both
    gates, ups = both.chunk(2, dim=-1)
    return gated_activation(gates, ups, gate)

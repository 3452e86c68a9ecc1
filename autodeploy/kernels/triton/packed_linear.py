"""`ops.packed_linear` and `ops.packed_gated_linear`: the ways to compute them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.storage import Storage
from autodeploy.kernels.triton import direct_plan
from autodeploy.kernels.triton.activation import gated_activation
from autodeploy.kernels.triton.dequantize import dequantize
from autodeploy.kernels.triton.packed_ring import packed_ring
from autodeploy.kernels.triton.packed_skinny import packed_skinny_kernel
from autodeploy.kernels.triton.packed_vector import nibble_matvec_kernel, packed_matvec_kernel
from autodeploy.kernels.triton.quantized import (
    BLOCK,
    LIBRARY,
    Launch,
    QuantizedConfig,
    ScaleLayout,
    can_be_brought,
    fit,
    fitting,
    rows_for,
)
from autodeploy.kernels.triton.rows import dense

BYTES = ("int8", "fp8")
"""The formats with one value a byte."""
LEAST_TURN = 64
"""Columns that a ring multiplies at once, at least: they share a scale."""
STORED = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.uint8: tl.uint8,
    torch.float8_e4m3fn: tl.float8e4nv,
}
ONE_ROW = tuple(
    QuantizedConfig(block_n, block_k, 1, num_warps, 1, way="vector")
    for block_n, block_k, num_warps in ((4, 2048, 4), (8, 1024, 2), (8, 2048, 4), (2, 2048, 2))
)
ONE_ROW_OF_NIBBLES = tuple(
    QuantizedConfig(block_n, block_k, 1, num_warps, 1, way="vector")
    for block_n, block_k, num_warps in ((4, 4096, 4), (8, 2048, 4), (16, 2048, 8))
)
FEW_ROWS = (
    QuantizedConfig(64, 512, 2, 4, 3),
    QuantizedConfig(64, 512, 1, 4, 3),
    QuantizedConfig(64, 256, 8, 4, 4),
    QuantizedConfig(64, 256, 4, 4, 3),
    QuantizedConfig(64, 128, 1, 4, 6, held=True),
)
RINGS = (
    QuantizedConfig(128, 256, 1, 4, 3, way="ring"),
    QuantizedConfig(64, 256, 2, 4, 3, way="ring"),
    QuantizedConfig(64, 256, 4, 4, 3, way="ring"),
)
"""For int8 and few rows. Of int4, what the matrix units wait for takes too long."""
SOME_ROWS = (
    QuantizedConfig(128, 256, 4, 8, 3),
    QuantizedConfig(64, 128, 1, 4, 4),
    QuantizedConfig(64, 128, 4, 4, 4),
    QuantizedConfig(128, 128, 1, 8, 4),
    QuantizedConfig(64, 256, 1, 4, 4),
)
MANY_ROWS = tuple(
    QuantizedConfig(block_n, 128, split, 8, 3, block_m)
    for block_m, block_n, split in ((128, 128, 1), (128, 128, 2), (64, 128, 1), (128, 64, 1), (128, 64, 2))
)
FEW = 16
"""So many rows of x fill the least that matrix units multiply by what they read in shared memory."""
MOST_ROWS = 512
"""Past so many, decoding the weight once for all is faster than decoding it for every block of rows."""


def candidates(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> tuple[QuantizedConfig, ...]:
    """The configurations worth timing for m rows of x in dtype, the best guess first."""
    if m > MOST_ROWS:
        return (LIBRARY,)
    if m > 64:
        return fitting((*MANY_ROWS, LIBRARY), m, k, dtype.itemsize)
    configs: tuple[QuantizedConfig, ...] = FEW_ROWS if m <= 8 else SOME_ROWS
    if m <= FEW and storage.format == "int8" and rings_serve(dtype, k, storage) and can_be_brought(k):
        configs = (*configs, *RINGS)
    if m == 1 and storage.format in BYTES and storage.groups == 1:
        configs = (*ONE_ROW, *configs)
    if m == 1 and storage.format == "int4" and k % 8 == 0 and dtype.itemsize == 2:
        configs = (*ONE_ROW_OF_NIBBLES, *configs)
    direct, configs = direct_plan.candidates(m, n, k, dtype, storage), fitting(configs, m, k, dtype.itemsize)
    return (*direct, *configs) if storage.format == "int4" and m <= direct_plan.FEW else (*configs, *direct)


def rings_serve(dtype: torch.dtype, k: int, storage: Storage) -> bool:
    """Whether `packed_ring` multiplies rows of k elements of dtype by such a weight."""
    whole = storage.format in ("int8", "int4") and not storage.zero and storage.scale_rows > 1
    return whole and dtype.itemsize == 2 and k % 32 == 0 and (storage.groups == 1 or k // storage.groups >= LEAST_TURN)


def first(m: int, weight: Tensor, k: int, dtype: torch.dtype, scale: Tensor, format: str) -> QuantizedConfig:
    """The best guess for m rows."""
    return candidates(m, weight.shape[0], k, dtype, Storage(format, "", *scale.shape))[0]


def bind(config: QuantizedConfig) -> Callable[..., Tensor]:
    """`ops.packed_linear` in a configuration."""

    def projection(
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        zero: Tensor | None,
        global_scale: Tensor | None,
        bias: Tensor | None,
        format: str,
    ) -> Tensor:
        return run(x, weight, scale, zero, global_scale, bias, format, config)

    return projection


def bind_gated(config: QuantizedConfig) -> Callable[..., Tensor]:
    """`ops.packed_gated_linear` in a configuration."""

    def projection(
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        zero: Tensor | None,
        global_scale: Tensor | None,
        bias: Tensor | None,
        format: str,
        kind: str,
    ) -> Tensor:
        return run(x, weight, scale, zero, global_scale, bias, format, config, kind)

    return projection


def packed_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
) -> Tensor:
    """`ops.packed_linear` by the best guess."""
    config = first(x.shape[:-1].numel(), weight, x.shape[-1], x.dtype, scale, format)
    return run(x, weight, scale, zero, global_scale, bias, format, config)


def packed_gated_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
    kind: str,
) -> Tensor:
    """`ops.packed_gated_linear` by the best guess."""
    config = first(x.shape[:-1].numel(), weight, x.shape[-1], x.dtype, scale, format)
    return run(x, weight, scale, zero, global_scale, bias, format, config, kind)


def run(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
    config: QuantizedConfig,
    gate: str | None = None,
) -> Tensor:
    """`ops.packed_linear` in a configuration, ValueError for several rows on the ordinary units.

    With the name of an activation as gate, it is `ops.packed_gated_linear`.
    """
    if config.way == "library":
        return _library(x, dequantize(weight, scale, zero, global_scale, format, x.shape[-1], x.dtype), bias, gate)
    n = weight.shape[0] if gate is None else weight.shape[0] // 2
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    if out.numel() and config.way == "ring":
        packed_ring(rows_for(x, config), weight.contiguous(), scale.contiguous(), dense(bias), out, config, gate)
    elif out.numel() and config.way == "direct":
        from autodeploy.kernels.triton.direct_linear import Stored, fill_directly  # in Gluon: see `runs_gluon`

        stored = Stored(format, weight.contiguous(), scale.contiguous(), dense(zero))
        fill_directly(rows_for(x, config), stored, dense(bias), out, config, gate)
    elif out.numel():
        start = _vector if config.way == "vector" else _skinny
        rows, given = rows_for(x, config), (weight.contiguous(), scale, zero, global_scale)
        start(rows, *given, dense(bias), format, out, config, gate)
    return out


def _vector(
    rows: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
    out: Tensor,
    config: QuantizedConfig,
    gate: str | None,
) -> None:
    """Fill out by the kernels for one row: formats of bytes with whole scales, and int4 for elements of 16 bits."""
    size, k = weight.shape[0], rows.shape[1]
    layout = ScaleLayout.of(scale, size, k, blocked=format == "fp8")
    config = fit(config, k)
    launch = Launch.of(config, 1, size, k, gate, rows.device)
    outs = (bias, out, launch.shares, launch.counters, out.shape[-1], k, config.split_k)
    if format == "int4":
        words = weight.view(torch.int32)
        nibble_matvec_kernel[launch.grid](
            _as_words(rows), words, scale.contiguous(), dense(zero), *outs, words.shape[1], scale.shape[1],
            STORED[rows.dtype], GROUP=layout.group, **launch.options,
        )  # fmt: skip
    else:
        packed_matvec_kernel[launch.grid](
            rows, weight, scale.contiguous(), *outs, scale.shape[1], format, SCALE_ROWS=layout.rows, **launch.options
        )


def _as_words(rows: Tensor) -> Tensor:
    """A row of elements of 16 bits, two a word; a copy only where it does not begin with a word."""
    return (rows if rows.data_ptr() % 4 == 0 else rows.clone()).view(torch.int32)


def _skinny(
    rows: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
    out: Tensor,
    config: QuantizedConfig,
    gate: str | None,
) -> None:
    """Fill out by the kernel on the matrix units."""
    (m, k), size = rows.shape, weight.shape[0]
    layout = ScaleLayout.of(scale, size, k, blocked=format == "fp8")
    config = fit(config, k, BLOCK if format == "fp8" and layout.group else 0)
    launch = Launch.of(config, m, size, k, gate, rows.device)
    spans = layout.group == 0 or layout.group >= config.block_k
    scales, zeros = (dense(one) if one is None or not spans else _words(one) for one in (scale, zero))
    packed_skinny_kernel[launch.grid](
        rows, weight, scales, zeros, global_scale, bias, out, launch.shares, launch.counters,
        m, out.shape[-1], k, config.split_k, rows.stride(0), weight.stride(0), scale.shape[1], format,
        SCALE=STORED[scale.dtype], ZERO=None if zero is None else STORED[zero.dtype],
        SCALE_ROWS=layout.rows, GROUP=layout.group, **launch.options,
    )  # fmt: skip


def _words(scale: Tensor) -> Tensor:
    """A scale or zero point by row and group as 32-bit words, where rows are made of them: these can be prefetched."""
    scale = scale.contiguous()
    return scale.view(torch.int32) if scale.shape[1] * scale.itemsize % 4 == 0 and scale.itemsize < 4 else scale


def _library(x: Tensor, weight: Tensor, bias: Tensor | None, gate: str | None) -> Tensor:
    both = torch.nn.functional.linear(x, weight, bias)
    if gate is None:
        return both
    gates, ups = both.chunk(2, dim=-1)
    return gated_activation(gates, ups, gate)

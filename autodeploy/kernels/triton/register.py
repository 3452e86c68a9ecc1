"""The Triton kernels as operators `torch.ops.autodeploy_triton.*` and as kernels of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.cuda import gated_tiles, skinny, skinny_plan
from autodeploy.kernels.table import Kernel, Tunable
from autodeploy.kernels.triton import gated_linear, linear, packed_experts, residual_linear, tiles_linear
from autodeploy.kernels.triton.activation import gated_activation
from autodeploy.kernels.triton.attention import paged_attention, rope_paged_attention
from autodeploy.kernels.triton.attention_config import AttentionConfig, candidates
from autodeploy.kernels.triton.cache_keys import settle_keys
from autodeploy.kernels.triton.embedding import embedding
from autodeploy.kernels.triton.experts import expert_linear
from autodeploy.kernels.triton.launch import INTERPRETED
from autodeploy.kernels.triton.norm import add_rms_norm, rms_norm
from autodeploy.kernels.triton.register_quantized import quantized_kernels
from autodeploy.kernels.triton.rope import rope
from autodeploy.kernels.triton.rotary_tables import rotary_tables
from autodeploy.ops import CanonicalOp

BACKEND = "triton"
DEVICES = ("cpu",) if INTERPRETED else ("cuda",)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_WIDTH = 65536 // 4  # of a row that one program holds in registers
SKINNY = Tunable(linear.candidates, linear.bind, linear.SkinnyConfig)
GATED = replace(SKINNY, bind=gated_linear.bind)
TILES = Tunable(tiles_linear.candidates, tiles_linear.bind, tiles_linear.TileConfig)
SUMMED = replace(SKINNY, bind=residual_linear.bind)
SUMMED_TILES = replace(TILES, bind=residual_linear.bind_tiles)
GATED_TILES = replace(TILES, configs=tiles_linear.gated_candidates)
GATED_BY_HAND = Tunable(gated_tiles.candidates, gated_tiles.bind, gated_tiles.GatedTileConfig)
RINGS = Tunable(skinny_plan.candidates, skinny.bind, skinny_plan.SkinnyCut)
SUMMED_RINGS = replace(RINGS, bind=skinny.bind_residual)
LIBRARY = torch.library.Library("autodeploy_triton", "FRAGMENT")  # type: ignore[no-untyped-call]


def register() -> tuple[Kernel, ...]:
    """Define the operators with PyTorch's dispatcher. To be called once in a process, before a kernel is launched."""
    settle_keys()
    return (
        replace(_kernel(ops.linear, linear.linear, _one_matmul_dtype), tunable=SKINNY),
        replace(_kernel(ops.gated_linear, gated_linear.gated_linear, _one_gated_dtype), tunable=GATED),
        _tuned(ops.linear, "tma", linear.linear, _one_matmul_dtype, TILES),
        _tuned(ops.gated_linear, "tma", gated_linear.gated_linear, _one_gated_dtype, GATED_TILES),
        _tuned(ops.gated_linear, "cuda", gated_linear.gated_linear, _one_gated_dtype, GATED_BY_HAND),
        _tuned(ops.linear, "mma", linear.linear, _one_matmul_dtype, RINGS),
        _tuned(ops.gated_linear, "mma", gated_linear.gated_linear, _one_gated_dtype, RINGS),
        _tuned(ops.gated_linear, "library", gated_linear.library, _one_gated_dtype),
        *_summed(),
        _kernel(ops.expert_linear, expert_linear, _one_expert_dtype),
        _kernel(ops.packed_expert_linear, packed_experts.packed_expert_linear, packed_experts.declines),
        _kernel(ops.rms_norm, rms_norm, _narrow_rows),
        _kernel(ops.add_rms_norm, add_rms_norm, _narrow_sums),
        _kernel(ops.embedding, embedding, _dense_table),
        _kernel(ops.rotary_tables, rotary_tables, _float_frequencies),
        _kernel(ops.rope, rope, _wide_angles),
        _kernel(ops.gated_activation, gated_activation, _like_halves),
        _attention(ops.paged_attention, paged_attention, _one_cache_dtype),
        _attention(ops.rope_paged_attention, rope_paged_attention, _one_rotated_cache_dtype),
        *quantized_kernels(_kernel),
    )


def _summed() -> tuple[Kernel, ...]:
    """Those that add a residual to a projection."""
    op, run, over = ops.residual_linear, residual_linear.library, residual_linear.library_over
    first = _kernel(op, residual_linear.residual_linear, _one_dtype)
    return (
        replace(first, tunable=SUMMED, run_over=residual_linear.residual_linear_over),
        _tuned(op, "tma", run, _one_dtype, SUMMED_TILES),
        _tuned(op, "mma", run, _one_dtype, SUMMED_RINGS),
        replace(_tuned(op, "library", run, _one_dtype), run_over=over),
    )


def _kernel(op: CanonicalOp, run: Callable[..., Any], declines: Callable[..., str | None]) -> Kernel:
    LIBRARY.define(op.schema)  # type: ignore[no-untyped-call]
    LIBRARY.impl(op.name, run, "CPU" if INTERPRETED else "CUDA")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"autodeploy_triton::{op.name}", op.fake, lib=LIBRARY)
    overload = getattr(torch.ops.autodeploy_triton, op.name).default
    return Kernel(op, BACKEND, overload, DEVICES, DTYPES, declines, priority=10)


def _attention(op: CanonicalOp, run: Callable[..., Any], declines: Callable[..., str | None]) -> Kernel:
    """A kernel that runs by rules, or as measurements choose."""
    tunable = Tunable(candidates, lambda config: partial(run, chosen=config), AttentionConfig)
    return replace(_kernel(op, run, declines), tunable=tunable)


def _tuned(
    op: CanonicalOp,
    backend: str,
    run: Callable[..., Any],
    declines: Callable[..., str | None],
    tunable: Tunable | None = None,
) -> Kernel:
    """A kernel that serves where measurements choose it, for the numbers of rows that they choose it for."""
    return Kernel(op, backend, run, DEVICES, DTYPES, declines, priority=5, tunable=tunable)


def _one_dtype(x: Tensor, *others: Tensor | None) -> str | None:
    same = all(other is None or other.dtype == x.dtype for other in others)
    return None if same else "the arguments differ in dtype"


def _one_matmul_dtype(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> str | None:
    return _one_dtype(x, weight, bias)


def _one_gated_dtype(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> str | None:
    return _known_activation(kind) or _one_dtype(x, weight, bias)


def _one_expert_dtype(
    x: Tensor, experts: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False
) -> str | None:
    return _one_dtype(x, weight, bias)


def _known_activation(kind: str) -> str | None:
    return None if kind in ops.ACTIVATIONS else f"no activation is named {kind!r}"


def _narrow_rows(
    x: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0, scale_in_float32: bool = False
) -> str | None:
    if x.shape[-1] > MAX_WIDTH:
        return f"rows of {x.shape[-1]} are wider than {MAX_WIDTH}"
    return _one_dtype(x, weight)


def _narrow_sums(
    x: Tensor, residual: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0, scale_in_float32: bool = False
) -> str | None:
    return _narrow_rows(x, weight, eps) or _one_dtype(x, residual)


def _dense_table(weight: Tensor, ids: Tensor) -> str | None:
    if ids.dtype != torch.int64:
        return f"the ids are {ids.dtype}, not int64"
    return None if weight.stride(1) == 1 else "the rows of the table have gaps"


def _float_frequencies(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype, scaling: float = 1.0, interleaved: bool = False
) -> str | None:
    return None if frequencies.dtype == torch.float32 else f"the frequencies are {frequencies.dtype}, not float32"


def _wide_angles(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> str | None:
    if cos.dtype != sin.dtype or cos.dtype not in (torch.float32, x.dtype):
        return "cos and sin are neither float32 nor of x's dtype"
    return None


def _like_halves(gate: Tensor, up: Tensor, kind: str) -> str | None:
    if gate.shape != up.shape:
        return "gate and up differ in shape"
    return _known_activation(kind) or _one_dtype(gate, up)


def _one_cache_dtype(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    query_start: Tensor,
    context_len: Tensor,
    page_table: Tensor,
    slots: Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> str | None:
    if scale <= 0:
        return "the scale is not positive"
    if max(q.shape[-1], v.shape[-1]) > 256:
        return "heads wider than 256 do not fit a program's registers"
    return _known_cache(q.dtype, key_pages, value_pages) or _one_dtype(q, k, v, sinks)


def _known_cache(dtype: torch.dtype, *pages: Tensor) -> str | None:
    """Why pages cannot be read beside queries of dtype."""
    if any(page.dtype not in (dtype, torch.int8, torch.float8_e4m3fn) for page in pages):
        return "the cache is neither of q's dtype nor of 8 bits"
    if any(page.dtype == torch.float8_e4m3fn for page in pages) and not _converts_fp8():
        return "this GPU cannot convert fp8: compute capability 8.9 can"
    return None


def _converts_fp8() -> bool:
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (8, 9)


def _one_rotated_cache_dtype(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    query_start: Tensor,
    context_len: Tensor,
    page_table: Tensor,
    slots: Tensor,
    scale: float,
    interleaved: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> str | None:
    step = (query_start, context_len, page_table, slots)
    scales = (key_scale, value_scale)
    cached = _one_cache_dtype(
        q, k, v, key_pages, value_pages, *step, scale, window, softcap, sinks, alibi_slopes, *scales
    )
    return cached or _wide_angles(q, cos, sin, interleaved)

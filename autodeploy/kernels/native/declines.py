"""Why a kernel in C++ cannot serve some arguments; they have shapes and dtypes, but no data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autodeploy import ops

_WIDE = (torch.float32, torch.bfloat16)
_BLOCK = 64  # columns of int8 weights that are read at once


def one_dtype(x: Tensor, *rest: object, **named: object) -> str | None:
    """All tensors are of x's dtype."""
    others = (*rest, *named.values())
    same = all(other.dtype == x.dtype for other in others if isinstance(other, Tensor))
    return None if same else "the arguments differ in dtype"


def known_kind(x: Tensor, kind: str) -> str | None:
    """The activation is one of ours."""
    return None if kind in ops.ACTIVATIONS else f"no activation is named {kind!r}"


def known_projection(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> str | None:
    """A projection of one dtype and a known activation."""
    return one_dtype(x, weight, bias) or known_kind(x, kind)


def like_residual(x: Tensor, residual: Tensor, *rest: object, **named: object) -> str | None:
    """The norm of a sum of equals."""
    if x.shape != residual.shape:
        return "x and the residual differ in shape"
    return one_dtype(x, residual, *rest, **named)


def like_halves(gate: Tensor, up: Tensor, kind: str) -> str | None:
    """A gate and what it gates, alike."""
    if gate.shape != up.shape:
        return "gate and up differ in shape"
    return one_dtype(gate, up) or known_kind(gate, kind)


def plain_positions(positions: Tensor, frequencies: Tensor, *options: Any, **named: Any) -> str | None:
    """Positions in int64, and frequencies in float32."""
    if (positions.dtype, frequencies.dtype) != (torch.int64, torch.float32):
        return f"positions are {positions.dtype} and frequencies {frequencies.dtype}, not int64 and float32"
    return None


def wide_angles(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> str | None:
    """Angles of x's dtype or in float32."""
    if cos.dtype != sin.dtype or cos.dtype not in (torch.float32, x.dtype):
        return "cos and sin are neither float32 nor of x's dtype"
    return None


def one_cache_dtype(
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
    """Attention over a cache of the queries' dtype."""
    if key_scale is not None or value_scale is not None:
        return "the cache is scaled"
    if alibi_slopes is not None and alibi_slopes.dtype != torch.float32:
        return "the slopes of ALiBi are not float32"
    return one_dtype(q, k, v, key_pages, value_pages, sinks)


def rotates_into_cache(
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
    *options: Any,
    **named: Any,
) -> str | None:
    """Rotations and attention, each as it is alone."""
    step = (key_pages, value_pages, query_start, context_len, page_table, slots, scale)
    return wide_angles(q, cos, sin) or one_cache_dtype(q, k, v, *step, *options, **named)


def decodable(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
    kind: str = "silu",
) -> str | None:
    """Weights in a format that the kernels know."""
    if format not in ("int8", "int4", "fp8"):
        return f"no kernel reads {format} weights"
    if scale.dtype not in _WIDE:
        return f"the scales are {scale.dtype}, neither float32 nor bfloat16"
    if zero is not None and (zero.shape != scale.shape or zero.dtype not in (*_WIDE, torch.uint8)):
        return "the zero points are not laid out like the scales, in float32, bfloat16 or uint8"
    return one_dtype(x, bias) or known_kind(x, kind)


def blocked(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    kind: str = "silu",
) -> str | None:
    """Integers whose scales change between the kernels' blocks only."""
    if weight.dtype != torch.int8:
        return f"the weights are {weight.dtype}, not int8"
    groups = x_scale.shape[-1] if x_scale.dim() else 1
    if groups > 1 and x.shape[-1] // groups % _BLOCK:
        return f"groups of {x.shape[-1] // groups} columns are no multiple of {_BLOCK}"
    if bias is not None and bias.dtype != dtype:
        return "the bias is not of the result's dtype"
    return known_kind(x, kind)

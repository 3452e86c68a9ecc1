"""The backend `native`: C++ kernels for the CPU, in float32 and bfloat16, compiled on the machine that runs them.

Their results for a row of a batch never depend, to the last bit, on the other rows, on the number of threads or on how
a prompt was cut into chunks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.native.build import BuildError, build
from autodeploy.kernels.table import Kernel
from autodeploy.ops import CanonicalOp

BACKEND = "native"
DTYPES = (torch.float32, torch.bfloat16)
LIBRARY = torch.library.Library("autodeploy_native", "FRAGMENT")  # type: ignore[no-untyped-call]

for _op in (
    ops.linear,
    ops.linear_activation,
    ops.gated_linear,
    ops.rms_norm,
    ops.layer_norm,
    ops.add_rms_norm,
    ops.add_layer_norm,
    ops.soft_cap,
    ops.activate,
    ops.gated_activation,
    ops.rope,
    ops.paged_attention,
    ops.rope_paged_attention,
):
    LIBRARY.define(_op.schema)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"autodeploy_native::{_op.name}", _op.fake, lib=LIBRARY)


@cache
def why_unavailable() -> str | None:
    """The reason why this machine cannot have the kernels, or None. The first call compiles and loads them."""
    try:
        path = build()
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except (BuildError, OSError) as error:
        return str(error)
    return None


def kernels() -> tuple[Kernel, ...]:
    """The kernels of this backend; none where it is unavailable."""
    if why_unavailable() is not None:
        return ()
    return (
        _kernel(ops.linear, _one_dtype),
        _kernel(ops.linear_activation, _known_projection),
        _kernel(ops.gated_linear, _known_projection),
        _kernel(ops.rms_norm, _one_dtype),
        _kernel(ops.layer_norm, _one_dtype),
        _kernel(ops.add_rms_norm, _like_residual),
        _kernel(ops.add_layer_norm, _like_residual),
        _kernel(ops.soft_cap, _one_dtype),
        _kernel(ops.activate, _known_kind),
        _kernel(ops.gated_activation, _like_halves),
        _kernel(ops.rope, _wide_angles),
        _kernel(ops.paged_attention, _one_cache_dtype),
        _kernel(ops.rope_paged_attention, _rotates_into_cache),
    )


def _kernel(op: CanonicalOp, declines: object) -> Kernel:
    assert callable(declines)
    run = getattr(torch.ops.autodeploy_native, op.name).default
    return Kernel(op, BACKEND, run, ("cpu",), DTYPES, declines, priority=10)


def _one_dtype(x: Tensor, *rest: object, **named: object) -> str | None:
    others = (*rest, *named.values())
    same = all(other.dtype == x.dtype for other in others if isinstance(other, Tensor))
    return None if same else "the arguments differ in dtype"


def _known_kind(x: Tensor, kind: str) -> str | None:
    return None if kind in ops.ACTIVATIONS else f"no activation is named {kind!r}"


def _known_projection(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> str | None:
    return _one_dtype(x, weight, bias) or _known_kind(x, kind)


def _like_residual(x: Tensor, residual: Tensor, *rest: object, **named: object) -> str | None:
    if x.shape != residual.shape:
        return "x and the residual differ in shape"
    return _one_dtype(x, residual, *rest, **named)


def _like_halves(gate: Tensor, up: Tensor, kind: str) -> str | None:
    if gate.shape != up.shape:
        return "gate and up differ in shape"
    return _one_dtype(gate, up) or _known_kind(gate, kind)


def _wide_angles(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> str | None:
    if cos.dtype != sin.dtype or cos.dtype not in (torch.float32, x.dtype):
        return "cos and sin are neither float32 nor of x's dtype"
    return None


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
    if key_scale is not None or value_scale is not None:
        return "the cache is scaled"
    if alibi_slopes is not None and alibi_slopes.dtype != torch.float32:
        return "the slopes of ALiBi are not float32"
    return _one_dtype(q, k, v, key_pages, value_pages, sinks)


def _rotates_into_cache(
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
    step = (key_pages, value_pages, query_start, context_len, page_table, slots, scale)
    return _wide_angles(q, cos, sin) or _one_cache_dtype(q, k, v, *step, *options, **named)

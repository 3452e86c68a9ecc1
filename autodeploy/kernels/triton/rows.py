"""Norm, rotary embedding and gated activation: one pass over each row, rounding where the references round."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


def _rows(x: Tensor) -> Tensor:
    """x as `[rows, width]` with dense elements; a copy only where no such view exists."""
    flat = x.flatten(0, -2) if x.dim() > 1 else x.unsqueeze(0)
    return flat if flat.stride(-1) == 1 else flat.contiguous()


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _warps(block: int) -> int:
    return min(max(block // 512, 1), 16)


@triton.jit
def _rms_norm_kernel(
    x,
    weight,
    out,
    stride,
    width,
    eps,
    offset,
    scale_in_float32: tl.constexpr,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    h = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    h = h * tl.rsqrt(tl.sum(h * h, axis=0) / width + eps)
    dtype = out.dtype.element_ty
    if weight is not None:
        w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32) + offset
        if scale_in_float32:  # noqa: SIM108  decided when the kernel is compiled
            h = h * w
        else:
            h = h.to(dtype).to(tl.float32) * w.to(dtype).to(tl.float32)
    tl.store(out + row * width + column, h.to(dtype), mask=inside)


def rms_norm(
    x: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0, scale_in_float32: bool = False
) -> Tensor:
    """`ops.rms_norm` for rows that one program can hold."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows = _rows(x)
    if not rows.numel():
        return out
    block = triton.next_power_of_2(rows.shape[1])
    _rms_norm_kernel[(rows.shape[0],)](
        rows,
        _dense(weight),
        out,
        rows.stride(0),
        rows.shape[1],
        eps,
        offset,
        scale_in_float32,
        BLOCK=block,
        num_warps=_warps(block),
    )
    return out


@triton.jit
def _rope_kernel(
    x,
    cos,
    sin,
    out,
    token_stride,
    head_stride,
    heads,
    width: tl.constexpr,
    rotary: tl.constexpr,
    interleaved: tl.constexpr,
    HEADS: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    REST: tl.constexpr,  # noqa: N803
) -> None:
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    pair = tl.arange(0, HALF)[None, :]
    half: tl.constexpr = rotary // 2
    if interleaved:
        first, second = 2 * pair, 2 * pair + 1
    else:
        first, second = pair, pair + half
    from_row = x + token * token_stride + head * head_stride
    to_row = out + (token * heads + head) * width
    angles = token * rotary
    known = pair < half
    inside = (head < heads) & known
    compute = cos.dtype.element_ty
    a = tl.load(from_row + first, mask=inside, other=0.0).to(compute)
    b = tl.load(from_row + second, mask=inside, other=0.0).to(compute)
    ac = (a * tl.load(cos + angles + first, mask=known, other=0.0)).to(compute)
    bs = (b * tl.load(sin + angles + first, mask=known, other=0.0)).to(compute)
    bc = (b * tl.load(cos + angles + second, mask=known, other=0.0)).to(compute)
    as_ = (a * tl.load(sin + angles + second, mask=known, other=0.0)).to(compute)
    dtype = out.dtype.element_ty
    tl.store(to_row + first, (ac - bs).to(dtype), mask=inside)
    tl.store(to_row + second, (bc + as_).to(dtype), mask=inside)
    if rotary < width:
        rest = rotary + tl.arange(0, REST)[None, :]
        passed = (head < heads) & (rest < width)
        tl.store(to_row + rest, tl.load(from_row + rest, mask=passed), mask=passed)


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """`ops.rope`."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not x.numel():
        return out
    tokens = x.flatten(0, -3)
    if tokens.stride(-1) != 1:
        tokens = tokens.contiguous()
    num_tokens, heads, width = tokens.shape
    rotary = cos.shape[-1]
    cos, sin = (angles.expand(*x.shape[:-2], rotary).reshape(num_tokens, rotary).contiguous() for angles in (cos, sin))
    half = triton.next_power_of_2(max(rotary // 2, 1))
    block = max(1, min(triton.next_power_of_2(heads), 2048 // half))
    _rope_kernel[(num_tokens, triton.cdiv(heads, block))](
        tokens,
        cos,
        sin,
        out,
        tokens.stride(0),
        tokens.stride(1),
        heads,
        width,
        rotary,
        interleaved,
        HEADS=block,
        HALF=half,
        REST=triton.next_power_of_2(max(width - rotary, 1)),
    )
    return out


@triton.jit
def _activation(x, kind: tl.constexpr, dtype: tl.constexpr):
    """The activation of float32 x; intermediate results that the reference keeps are rounded to dtype."""
    if kind == "silu":
        y = x * tl.sigmoid(x)
    elif kind == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif kind == "gelu_tanh":  # 0.5 (1 + tanh u) is sigmoid(2 u)
        y = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif kind == "gelu_quick":
        y = x * tl.sigmoid((1.702 * x).to(dtype).to(tl.float32)).to(dtype).to(tl.float32)
    elif kind == "relu":
        y = tl.where(x < 0.0, 0.0, x)
    elif kind == "relu_squared":
        positive = tl.where(x < 0.0, 0.0, x)
        y = positive * positive
    else:
        tl.static_assert(kind == "sigmoid")
        y = tl.sigmoid(x)
    return y.to(dtype).to(tl.float32)


@triton.jit
def _gated_activation_kernel(
    gate,
    up,
    out,
    gate_stride,
    up_stride,
    width,
    kind: tl.constexpr,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    dtype = out.dtype.element_ty
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = _activation(g, kind, dtype) * u
    tl.store(out + row * width + column, y.to(dtype), mask=inside)


def gated_activation(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """`ops.gated_activation`."""
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    if not gate.numel():
        return out
    gates, ups = _rows(gate), _rows(up)
    width = gates.shape[1]
    block = min(triton.next_power_of_2(width), 1024)
    _gated_activation_kernel[(gates.shape[0], triton.cdiv(width, block))](
        gates, ups, out, gates.stride(0), ups.stride(0), width, kind, BLOCK=block
    )
    return out

"""Activations, and their product with another half of a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.rows import rows_of
from autodeploy.kernels.triton.unpack import NATIVE

SIGMOID = tl.constexpr("""{
    .reg .f32 e;
    mul.f32 e, $1, 0fBFB8AA3B;
    ex2.approx.ftz.f32 e, e;
    add.f32 e, e, 0f3F800000;
    rcp.approx.ftz.f32 $0, e;
    }""")
"""1 / (1 + 2^(-x log2 e)), to two units in the last place; where the power is infinite, the rest makes it zero."""


@triton.jit
def _sigmoid(x):
    """The logistic function of float32 x. Exact division takes four times the instructions of all else."""
    if NATIVE:  # noqa: SIM108  decided when the kernel is compiled
        y = tl.inline_asm_elementwise(SIGMOID, "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        y = tl.sigmoid(x)
    return y


@triton.jit
def activation(x, kind: tl.constexpr, dtype: tl.constexpr):
    """The activation of float32 x; intermediate results that the reference keeps are rounded to dtype."""
    if kind == "silu":
        y = x * _sigmoid(x)
    elif kind == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif kind == "gelu_tanh":  # 0.5 (1 + tanh u) is sigmoid(2 u)
        y = x * _sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif kind == "gelu_quick":
        y = x * _sigmoid((1.702 * x).to(dtype).to(tl.float32)).to(dtype).to(tl.float32)
    elif kind == "relu":
        y = tl.where(x < 0.0, 0.0, x)
    elif kind == "relu_squared":
        positive = tl.where(x < 0.0, 0.0, x)
        y = positive * positive
    else:
        tl.static_assert(kind == "sigmoid")
        y = _sigmoid(x)
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
    overlapped: tl.constexpr,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    await_inputs(overlapped)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    dtype = out.dtype.element_ty
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    y = activation(g, kind, dtype) * u
    tl.store(out + row * width + column, y.to(dtype), mask=inside)


def gated_activation(gate: Tensor, up: Tensor, kind: str) -> Tensor:
    """`ops.gated_activation`."""
    out = torch.empty_like(gate, memory_format=torch.contiguous_format)
    if not gate.numel():
        return out
    gates, ups = rows_of(gate), rows_of(up)
    width = gates.shape[1]
    block = min(triton.next_power_of_2(width), 1024)
    _gated_activation_kernel[(gates.shape[0], triton.cdiv(width, block))](
        gates, ups, out, gates.stride(0), ups.stride(0), width, kind, BLOCK=block, **overlap(gate.device)
    )
    return out

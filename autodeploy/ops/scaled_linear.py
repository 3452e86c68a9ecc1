"""Projections of quantized activations by quantized weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from autodeploy.ops.activation import gated_activation
from autodeploy.ops.op import CanonicalOp
from autodeploy.quantization.formats import dequantize


def _scaled_linear(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    matrix = dequantize(weight, weight_scale, None, None, "fp8")  # int8 has the same layouts of scales here
    width = x.shape[-1] if x_scale.dim() == 0 else x.shape[-1] // x_scale.shape[-1]
    wide = x_scale if x_scale.dim() == 0 else x_scale.repeat_interleave(width, -1)
    return functional.linear(x.float() * wide, matrix, None if bias is None else bias.float()).to(dtype)


def _scaled_gated_linear(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    kind: str,
) -> Tensor:
    gate, up = _scaled_linear(x, x_scale, weight, weight_scale, bias, dtype).chunk(2, dim=-1)
    gated: Tensor = gated_activation.reference(gate, up, kind)
    return gated


def _fake(
    x: Tensor, x_scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=dtype)


def _fake_gated(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    kind: str,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0] // 2), dtype=dtype)


_ARGUMENTS = "Tensor x, Tensor x_scale, Tensor weight, Tensor weight_scale, Tensor? bias, ScalarType dtype"  # one list

scaled_linear = CanonicalOp(f"scaled_linear({_ARGUMENTS}) -> Tensor", _scaled_linear, _fake)
"""`(x * x_scale) @ (weight * weight_scale).T + bias [N] -> [..., N]` in `dtype`.

x `[..., K]` and weight `[N, K]` are both float8_e4m3fn or both int8. x_scale is float32 `[]`, `[..., 1]` or, a number
for each group of equal size, `[..., G]`; weight_scale is float32 `[1, 1]`, `[N, 1]` or, in blocks of 128 by 128,
`[ceil(N/128), ceil(K/128)]`. Products are summed in int32 or float32, and the result is rounded once.
"""

scaled_gated_linear = CanonicalOp(
    f"scaled_gated_linear({_ARGUMENTS}, str kind) -> Tensor", _scaled_gated_linear, _fake_gated
)
"""`gated_activation` of the halves of `scaled_linear`, the gate's first: `[..., K] -> [..., N/2]` in `dtype`.

A kernel need not round the projections to `dtype` before the activation.
"""

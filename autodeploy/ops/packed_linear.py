"""Projections by weights in 8 or 4 bits, of activations that stay as they are."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from autodeploy.ops.activation import gated_activation
from autodeploy.ops.op import CanonicalOp
from autodeploy.quantization.formats import dequantize


def _packed_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
) -> Tensor:
    matrix = dequantize(weight, scale, zero, global_scale, format)
    return functional.linear(x.float(), matrix, None if bias is None else bias.float()).to(x.dtype)


def _packed_gated_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    global_scale: Tensor | None,
    bias: Tensor | None,
    format: str,
    kind: str,
) -> Tensor:
    gate, up = _packed_linear(x, weight, scale, zero, global_scale, bias, format).chunk(2, dim=-1)
    gated: Tensor = gated_activation.reference(gate, up, kind)
    return gated


def _fake(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _fake_gated(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0] // 2))


_ARGUMENTS = (
    "Tensor x, Tensor weight, Tensor scale, Tensor? zero, Tensor? global_scale, Tensor? bias, str format"  # one list
)

packed_linear = CanonicalOp(f"packed_linear({_ARGUMENTS}) -> Tensor", _packed_linear, _fake)
"""`x [..., K] @ w.T + bias [N] -> [..., N]` in x's dtype, where w `[N, K]` is what the stored weight stands for.

`format` says how it is stored: int8, int4, fp8, nvfp4 or mxfp4, as `autodeploy.quantization.formats` has it. Sums are
of w in float32; a kernel may round w to x's dtype first, as a matmul of that dtype does.
"""

packed_gated_linear = CanonicalOp(
    f"packed_gated_linear({_ARGUMENTS}, str kind) -> Tensor", _packed_gated_linear, _fake_gated
)
"""`gated_activation` of the halves of `packed_linear`, the gate's first: `[..., K] -> [..., N/2]`.

A kernel need not round the projections to x's dtype before the activation.
"""

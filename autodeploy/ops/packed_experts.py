"""A projection by the weight of each row's expert, where the experts are stored in 8 or 4 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp
from autodeploy.ops.packed_linear import packed_linear


def _packed_expert_linear(
    x: Tensor,
    experts: Tensor,
    weight: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    format: str,
) -> Tensor:
    rows = x.expand(*experts.shape, x.shape[-1])
    out = _fake(x, experts, weight)
    for expert in torch.unique(experts).tolist():
        chosen = experts == expert
        own_zero, own_bias = (None if one is None else one[expert] for one in (zero, bias))
        given = (weight[expert], scale[expert], own_zero, None, own_bias, format)
        out[chosen] = packed_linear.reference(rows[chosen], *given)
    return out


def _fake(x: Tensor, experts: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty((*experts.shape, weight.shape[1]))


packed_expert_linear = CanonicalOp(
    "packed_expert_linear(Tensor x, Tensor experts, Tensor weight, Tensor scale, Tensor? zero, Tensor? bias,"
    " str format) -> Tensor",
    _packed_expert_linear,
    _fake,
    reference_waits=True,
)
"""`expert_linear` by weights `[E, N, K]` that are stored: `x [..., K]`, `experts [...]` int64 -> `[..., N]`.

`weight`, `scale` and `zero` are, for each of E experts, what `packed_linear` takes in `format`; `bias [E, N]` is in x's
dtype. A kernel may round the numbers that are stored to x's dtype before it multiplies by them.
"""

"""A projection whose weight matrix is chosen for each row: the parts of a mixture of experts."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp


def _expert_linear(
    x: Tensor, experts: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False
) -> Tensor:
    rows = x.expand(*experts.shape, x.shape[-1])
    out = x.new_empty(_fake_expert_linear(x, experts, weight, bias, transposed).shape)
    for expert in torch.unique(experts).tolist():
        chosen = experts == expert
        matrix = weight[expert].t() if transposed else weight[expert]
        out[chosen] = torch.nn.functional.linear(rows[chosen], matrix, None if bias is None else bias[expert])
    return out


def _fake_expert_linear(
    x: Tensor, experts: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False
) -> Tensor:
    return x.new_empty((*experts.shape, weight.shape[2 if transposed else 1]))


expert_linear = CanonicalOp(
    "expert_linear(Tensor x, Tensor experts, Tensor weight, Tensor? bias=None, bool transposed=False) -> Tensor",
    _expert_linear,
    _fake_expert_linear,
    reference_waits=True,
)
"""Project each row of `x [..., K]` by the weight of its expert: `experts [...]` int64 -> `[..., N]`.

`weight [E, N, K]` and `bias [E, N]` hold a matrix for each of E experts; the weight is `[E, K, N]` when `transposed`.
The leading dimensions of x broadcast to those of experts (Shazeer et al., 2017).
"""

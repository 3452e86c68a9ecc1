"""A smooth bound of logits."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp


def _soft_cap(x: Tensor, cap: float, scale: float = 1.0) -> Tensor:
    return (cap * torch.tanh(x.float() * (scale / cap))).to(x.dtype)


soft_cap = CanonicalOp(
    "soft_cap(Tensor x, float cap, float scale=1.0) -> Tensor",
    _soft_cap,
    lambda x, *_, **__: torch.empty_like(x, memory_format=torch.contiguous_format),
)
"""`cap * tanh(x * scale / cap)` of every element of x, computed in float32 and rounded once (Gemma 2)."""

"""Rotary position embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp


def _rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    rotary_dim = cos.shape[-1]
    rotated, passed = x[..., :rotary_dim], x[..., rotary_dim:]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    h = rotated.to(cos.dtype)
    if interleaved:
        turned = torch.stack((-h[..., 1::2], h[..., ::2]), dim=-1).flatten(-2)
    else:
        half = rotary_dim // 2
        turned = torch.cat((-h[..., half:], h[..., :half]), dim=-1)
    out = (h * cos + turned * sin).to(x.dtype)
    return torch.cat((out, passed), dim=-1)


rope = CanonicalOp(
    "rope(Tensor x, Tensor cos, Tensor sin, bool interleaved=False) -> Tensor",
    _rope,
    lambda x, *_, **__: torch.empty_like(x, memory_format=torch.contiguous_format),
)
"""Rotate `x [..., T, H, D]` by `cos, sin [..., T, R]` with R <= D (Su et al., 2021); dimensions past R pass through.

The pairs that rotate together are `(i, i + R/2)`, or `(2i, 2i + 1)` when `interleaved`. cos and sin may be of a
wider dtype than x; the arithmetic is then done in it and rounded once.
"""

"""The cosines and sines that rotary position embeddings turn by."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp


def _rotary_tables(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype, scaling: float = 1.0, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    angles = positions.unsqueeze(-1).to(torch.float32) * frequencies
    angles = angles.repeat_interleave(2, dim=-1) if interleaved else torch.cat((angles, angles), dim=-1)
    cos, sin = angles.cos(), angles.sin()
    if scaling != 1.0:
        cos, sin = cos * scaling, sin * scaling
    return cos.to(dtype), sin.to(dtype)


def _fake(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype, scaling: float = 1.0, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    shape = (*positions.shape, 2 * frequencies.shape[0])
    cos, sin = (torch.empty(shape, dtype=dtype, device=positions.device) for _ in range(2))
    return cos, sin


rotary_tables = CanonicalOp(
    "rotary_tables(Tensor positions, Tensor frequencies, ScalarType dtype, float scaling=1.0, bool interleaved=False)"
    " -> (Tensor, Tensor)",
    _rotary_tables,
    _fake,
)
"""`cos, sin [..., T, R]` of `dtype`, by which `rope` turns tokens at integer `positions [..., T]` (Su et al., 2021).

The angles are products of positions and `frequencies` float32 `[R / 2]`, each for both elements of a pair, which are
`(i, i + R/2)`, or `(2i, 2i + 1)` when `interleaved`. All of it is float32, `scaling` included, and is rounded once.
"""

"""Looking up rows of a table."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp


def _embedding(weight: Tensor, ids: Tensor) -> Tensor:
    return torch.embedding(weight, ids)


def _fake(weight: Tensor, ids: Tensor) -> Tensor:
    return torch.empty((*ids.shape, weight.shape[1]), dtype=weight.dtype, device=weight.device)


embedding = CanonicalOp("embedding(Tensor weight, Tensor ids) -> Tensor", _embedding, _fake)
"""The rows of `weight [N, D]` that integer `ids [..., T]`, from 0 to N - 1, name: `[..., T, D]`."""

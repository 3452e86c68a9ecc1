"""`ops.gated_linear` for up to 64 rows: the skinny matmuls, whose products leave as those of the gate and the gated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autodeploy.kernels.triton.activation import gated_activation
from autodeploy.kernels.triton.linear import SkinnyConfig, best_guess, run


def bind(config: SkinnyConfig) -> Callable[..., Tensor]:
    """`ops.gated_linear` in a given configuration."""

    def projection(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
        return run(x, weight, bias, config, kind)

    return projection


def gated_linear(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """`ops.gated_linear`: past 64 rows PyTorch's own matmul, and the gate after it."""
    config = best_guess(x.shape[:-1].numel(), weight)
    if config is not None:
        return run(x, weight, bias, config, kind)
    return library(x, weight, bias, kind)


def library(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str) -> Tensor:
    """`ops.gated_linear` by PyTorch's own matmul, and a kernel for the gate after it."""
    gate, up = torch.nn.functional.linear(x, weight, bias).chunk(2, dim=-1)
    return gated_activation(gate, up, kind)

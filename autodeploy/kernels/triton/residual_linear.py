"""`ops.residual_linear`: the kernels of `ops.linear`, and PyTorch's own matmul, add the residual on their way out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from autodeploy.kernels.triton import linear, tiles_linear
from autodeploy.kernels.triton.linear import SkinnyConfig
from autodeploy.kernels.triton.tiles_linear import TileConfig

Projection = Callable[[Tensor, Tensor, Tensor], Tensor]


def bind(config: SkinnyConfig) -> Projection:
    """`ops.residual_linear` of few rows in a given configuration."""

    def projection(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return linear.run(x, weight, None, config, residual=residual)

    return projection


def bind_tiles(config: TileConfig) -> Projection:
    """`ops.residual_linear` of tiles in a given configuration."""

    def projection(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return tiles_linear.run(x, weight, None, config, residual=residual)

    return projection


def residual_linear(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """`ops.residual_linear`: past 64 rows PyTorch's own matmul."""
    config = linear.best_guess(x.shape[:-1].numel(), weight)
    return library(x, weight, residual) if config is None else bind(config)(x, weight, residual)


def residual_linear_over(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """The same, where the result may take the memory of `residual`."""
    config = linear.best_guess(x.shape[:-1].numel(), weight)
    return library_over(x, weight, residual) if config is None else bind(config)(x, weight, residual)


def library(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """`ops.residual_linear` by PyTorch's own matmul, which first copies the residual to where the result will be."""
    return torch.addmm(_rows(residual), _rows(x), weight.T).view(residual.shape)


def library_over(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """The same in the memory of `residual`, which is not copied; one that lies with gaps or overlaps is."""
    if not residual.is_contiguous():
        return library(x, weight, residual)
    _rows(residual).addmm_(_rows(x), weight.T)
    return residual


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])

"""Functions of rows and a residual, as the passes that join the two meet them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from autodeploy.passes.canonicalize_linears import CanonicalizeLinears
from autodeploy.passes.canonicalize_norms import CanonicalizeNorms
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.passes.fuse_residual_norm import FuseResidualNorm

PASSES = (CleanGraph(), CanonicalizeLinears(), CanonicalizeNorms(), FuseResidualNorm())
WIDTH = 8
Function = Callable[["Rows", Tensor, Tensor], object]


class Rows(nn.Module):
    """A function of some rows and a residual, with weights at hand."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.scale, self.shift = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.matrix = nn.Parameter(torch.randn(WIDTH, WIDTH + 1))
        self.down, self.shifted = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, residual: Tensor) -> object:
        return self.function(self, x, residual)

    def rms(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (WIDTH,), self.scale)

    def layer(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, (WIDTH,), self.scale, self.shift)


def random_inputs() -> tuple[Tensor, Tensor]:
    """Rows and a residual."""
    return torch.randn(1, 5, WIDTH), torch.randn(1, 5, WIDTH)

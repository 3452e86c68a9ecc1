"""What depends on no input is computed once, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.passes.fold_constants import FoldConstants
from autodeploy.pipeline import Context
from tests.graphs import run, targets


class Angles(nn.Module):
    """Reads a table that its code computes, partly when it is made and partly when it is called."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(8))
        self.register_buffer("frequencies", 100.0 ** (-torch.arange(4.0) / 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        table = torch.cat((self.frequencies, self.frequencies.sqrt()))
        mask = torch.arange(8) < 6
        return torch.where(mask, x * table, x) * self.scale.exp() + torch.rand(8)


def folded(module: nn.Module, x: Tensor, **options: int) -> tuple[GraphModule, Context]:
    passed = run([CleanGraph(), FoldConstants(**options)], module, x, dim=1)
    return passed.graph_module, passed.context


def test_tables_and_masks_become_constants() -> None:
    module, x = Angles(), torch.randn(1, 9, 8)
    gm, ctx = folded(module, x)
    assert targets(gm) == [
        "aten.mul.Tensor", "aten.where.self", "aten.exp.default", "aten.mul.Tensor", "aten.rand.default",
        "aten.add.Tensor",
    ]  # fmt: skip
    assert set(ctx.weights) == {"folded.cat", "folded.lt", "scale"}
    torch.manual_seed(0)
    wanted = module(x)
    torch.manual_seed(0)
    assert torch.equal(gm(x), wanted)


@pytest.mark.parametrize(("max_bytes", "left"), [(0, True), (31, True), (32, False)])
def test_nothing_large_is_computed(max_bytes: int, left: bool) -> None:
    gm, _ = folded(Angles(), torch.randn(1, 9, 8), max_bytes=max_bytes)
    assert ("aten.cat.default" in targets(gm)) is left


def test_sizes_that_depend_on_the_input_stay() -> None:
    class Positions(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.arange(x.shape[1]).unsqueeze(-1)

    gm, ctx = folded(Positions(), torch.randn(1, 9, 8))
    assert "aten.arange.default" in targets(gm)
    assert not ctx.weights
    assert gm(torch.zeros(1, 3, 1)).flatten().tolist() == [0.0, 1.0, 2.0]

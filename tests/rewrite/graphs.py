"""Graphs of functions of two inputs and a weight, which the tests of the rewriter share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.rewrite import RewriteResult, Rule, apply_rules
from tests.graphs import clean, trace

Function = Callable[..., Tensor]


class Of(nn.Module):
    """A module that computes a function of its inputs and of one weight."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y, self.weight)


def raw_graph_of(function: Function) -> GraphModule:
    """The graph as it was traced, with writes and copies."""
    return trace(Of(function), torch.randn(1, 6, 4), torch.randn(1, 6, 4))


def graph_of(function: Function) -> GraphModule:
    """The graph in the form that patterns expect."""
    return clean(raw_graph_of(function))


def rewritten(gm: GraphModule, *rules: Rule) -> RewriteResult:
    """Apply `rules` and hold that the graph is well formed and computes on fresh input what it did before."""
    inputs = [torch.randn(1, 3, 4), torch.randn(1, 3, 4)]
    gm.recompile()
    before = gm(*[one.clone() for one in inputs])
    result = apply_rules(gm, rules, lambda: True)
    gm.graph.lint()
    gm.recompile()
    after = gm(*[one.clone() for one in inputs])
    torch.testing.assert_close(after, before)
    return result

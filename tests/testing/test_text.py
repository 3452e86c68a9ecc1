"""Graphs as text: what it shows, what it leaves out, and how repeated layers are folded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.export import trace_module
from autodeploy.testing import assert_counts, graph_text, op_counts
from tests.graphs import clean


class Block(nn.Module):
    """A residual branch."""

    def __init__(self, activation: Any = torch.relu) -> None:
        super().__init__()
        self.up, self.activation = nn.Linear(4, 4), activation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.activation(self.up(x))
        return out


class Stack(nn.Module):
    """Blocks, one after the other."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x.softmax(-1)


def graph_of(module: nn.Module, *shape: int) -> GraphModule:
    return clean(trace_module(module, torch.randn(shape), dynamic=[{1: "tokens"}]).graph_module)


def test_layers_are_written_once() -> None:
    assert graph_text(graph_of(Stack(Block(), Block(), Block()), 1, 6, 4)) == (
        "layer0(%x0):\n"
        "  %0 = aten.linear(%x0, blocks.*.up.weight[4, 4], blocks.*.up.bias[4]): f32[1, T, 4]\n"
        "  %1 = aten.relu(%0): f32[1, T, 4]\n"
        "  %2 = aten.add(%x0, %1): f32[1, T, 4]\n"
        "  return %2\n"
        "\n"
        "%x: f32[1, T, 4]\n"
        "%0 = layer0(%x)\n"
        "%1 = layer0(%0)\n"
        "%2 = layer0(%1)\n"
        "%3 = aten.softmax(%2, dim=-1): f32[1, T, 4]\n"
        "return %3\n"
    )


def test_each_layer_is_written_where_asked() -> None:
    text = graph_text(graph_of(Stack(Block(), Block()), 1, 6, 4), fold=False)
    assert "%0 = aten.linear(%x, blocks.0.up.weight[4, 4], blocks.0.up.bias[4]): f32[1, T, 4]" in text
    assert "%5 = aten.add(%2, %4): f32[1, T, 4]" in text
    assert "layer0" not in text


def test_weights_whose_names_differ_are_given_to_the_function() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last, self.same = Block(), Block(), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x * self.same) * self.same)
            return out

    lines = graph_text(graph_of(Named(), 1, 6, 4)).splitlines()
    assert lines[:3] == [
        "layer0(%x0, %x1, %x2):",
        "  %0 = aten.mul(%x0, same[4]): f32[1, T, 4]",
        "  %1 = aten.linear(%0, %x1, %x2): f32[1, T, 4]",
    ]
    assert "%1 = layer0(%0, last.up.weight[4, 4], last.up.bias[4])" in lines


def test_layers_that_differ_are_not_folded() -> None:
    assert "layer0" not in graph_text(graph_of(Stack(Block(), Block(torch.tanh)), 1, 6, 4))


def test_layers_that_are_wired_differently_are_not_folded() -> None:
    class Crossed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first = x.sin()
            first = first * x
            second = x.sin()
            return second * first

    text = graph_text(graph_of(Crossed(), 1, 6, 4))
    assert "layer0" not in text
    assert "%3 = aten.mul(%0, %2)" in text  # in the order of use


def test_what_the_graph_means_changes_the_text_and_its_names_do_not() -> None:
    def text(width: int, *, dim: int = -1, dtype: torch.dtype = torch.float32) -> str:
        class Of(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.to(dtype).sin().mean(dim)

        return graph_text(graph_of(Of(), 1, 6, width))

    assert text(4) == text(4)
    assert len({text(4), text(8), text(4, dim=1), text(4, dtype=torch.bfloat16)}) == 4
    renamed = graph_of(Stack(Block()), 1, 6, 4)
    before = graph_text(renamed)
    for index, node in enumerate(renamed.graph.nodes):
        if node.op == "call_function":
            node.name = f"other_{index}"
    assert graph_text(renamed) == before


def test_sizes_constants_and_several_results() -> None:
    class Of(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first, second = torch.split(x, [1, 3], dim=-1)
            doubled = torch.cat((second, second * 0.1234567891), 1)
            shifted: Tensor = doubled + torch.full((doubled.shape[1], 1), 2.0, device=x.device)
            return shifted + first[:, :1]

    text = graph_text(graph_of(Of(), 1, 6, 4))
    assert "aten.split_with_sizes(%x, split_sizes=[1, 3], dim=-1): f32[1, T, 1], f32[1, T, 3]" in text
    assert "aten.mul(" in text
    assert "other=0.123457" in text
    assert "f32[1, 2*T, 3]" in text
    assert "int T" in text
    assert "device" not in text


def test_counts() -> None:
    gm = graph_of(Stack(Block(), Block()), 1, 6, 4)
    assert op_counts(gm) == {"aten.linear": 2, "aten.relu": 2, "aten.add": 2, "aten.softmax": 1}
    assert_counts(gm, {"aten.linear": 2}, absent=["aten.mul"])
    with pytest.raises(AssertionError, match=r"2 aten.relu where 0 should be; 2 aten.linear where 1 should be \(the "):
        assert_counts(gm, {"aten.linear": 1}, absent=["aten.relu"])

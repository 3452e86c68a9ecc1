"""The halves of a projection are gated on their way out, where a kernel does both in one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

from autodeploy import ops
from autodeploy.graph.nodes import insert_call
from autodeploy.kernels import KernelTable, reference_kernel
from autodeploy.passes.fuse_gated_linear import FuseGatedLinear
from autodeploy.pipeline import Context
from autodeploy.tuning import Matmul, matmuls_of
from autodeploy.weights import WeightPlan
from tests.graphs import targets

KERNEL = replace(reference_kernel(ops.gated_linear), backend="fast", priority=1)
INPUTS = [torch.randn(1, 5, 8), torch.randn(12, 8), torch.randn(12)]
Halves = Callable[[Graph, list[Node]], tuple[Node, Node]]
gated_op = torch.ops.autodeploy.gated_activation.default


def subject(halves: Halves) -> GraphModule:
    """The gated activation of what `halves` makes of rows, a weight and a bias."""
    graph, mode = Graph(), FakeTensorMode()
    inputs = [graph.placeholder(f"input_{index}") for index in range(len(INPUTS))]
    for node, tensor in zip(inputs, INPUTS, strict=True):
        node.meta["val"] = mode.from_tensor(tensor)
    gate, up = halves(graph, inputs)
    out = insert_call(graph, gated_op, (gate, up, "gelu"))
    graph.output((out, gate) if halves is also_read else (out,))
    return GraphModule(torch.nn.Module(), graph)


def split(graph: Graph, projection: Node, *widths: int) -> list[Node]:
    parts = insert_call(graph, torch.ops.aten.split_with_sizes.default, (projection, list(widths), -1))
    return [insert_call(graph, operator.getitem, (parts, index)) for index in range(len(widths))]


def joined(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    gate, up = split(graph, insert_call(graph, torch.ops.autodeploy.linear.default, tuple(inputs)), 6, 6)
    return gate, up


def also_read(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    return joined(graph, inputs)


def swapped(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    gate, up = joined(graph, inputs)
    return up, gate


def apart(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    return joined(graph, inputs)[0], joined(graph, inputs)[1]


def thirds(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    gate, up, _ = split(graph, insert_call(graph, torch.ops.autodeploy.linear.default, tuple(inputs)), 4, 4, 4)
    return gate, up


def no_projection(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    gate, up = split(graph, insert_call(graph, torch.ops.aten.sin.default, (inputs[0],)), 4, 4)
    return gate, up


def whole(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    return inputs[0], inputs[0]


def context(*kernels: object) -> Context:
    table = KernelTable([reference_kernel(ops.gated_linear), *kernels])  # type: ignore[list-item]
    return Context(None, WeightPlan(), torch.device("cpu"), kernels=table)  # type: ignore[arg-type]


def test_halves_are_gated_on_their_way_out() -> None:
    gm = subject(joined)
    expected = gm(*INPUTS)[0]
    assert FuseGatedLinear().run(gm, context(KERNEL)) == 1
    assert targets(gm) == ["autodeploy.gated_linear.default"]
    assert matmuls_of(gm.graph) == (Matmul(12, 8, "float32", has_bias=True, gate="gelu"),)
    gm.graph.lint()
    gm.recompile()
    assert torch.equal(gm(*INPUTS)[0], expected)


@pytest.mark.parametrize(
    ("halves", "reason"),
    [
        (also_read, "something else reads getitem"),
        (swapped, "getitem_1 is not part 0 of a split"),
        (apart, "gate and up are not parts of one split"),
        (thirds, "gate and up are not the halves of one projection"),
        (no_projection, "gate and up are not the halves of one projection"),
        (whole, "input_0 is not part 0 of a split"),
    ],
)
def test_declined(halves: Halves, reason: str) -> None:
    gm, ctx = subject(halves), context(KERNEL)
    assert FuseGatedLinear().run(gm, ctx) == 0
    assert [miss.reason for miss in ctx.misses] == [reason]


def test_nothing_is_fused_without_a_kernel() -> None:
    gm, ctx = subject(joined), context()
    assert FuseGatedLinear().run(gm, ctx) == 0
    assert [miss.reason for miss in ctx.misses] == ["no kernel of cpu does both in one"]


def test_fuel_is_spent() -> None:
    gm, ctx = subject(joined), context(KERNEL)
    ctx.fuel = 0
    assert FuseGatedLinear().run(gm, ctx) == 0

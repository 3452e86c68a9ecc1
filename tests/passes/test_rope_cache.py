"""Rotations join the paged attention that reads them, where a kernel does both in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

from autodeploy import ops
from autodeploy.graph.nodes import insert_call
from autodeploy.kernels import KernelTable, reference_kernel
from autodeploy.passes.fuse_rope_cache import FuseRopeCache
from autodeploy.pipeline import Context
from autodeploy.weights import WeightPlan
from tests.graphs import targets
from tests.kernels.steps import Shape, make_step

STEP = make_step(Shape(heads=4, kv_heads=2, key_width=8, value_width=8), [(3, 9), (1, 5)], torch.float32)
INPUTS = [
    *(x.unsqueeze(0) for x in STEP.tensors[:3]),
    *(torch.randn(1, 4, 6) for _ in range(3)),
    *STEP.tensors[3:],
]
KERNEL = replace(reference_kernel(ops.rope_paged_attention), backend="fast", priority=1)
Rotate = Callable[[Graph, list[Node]], tuple[Node, Node]]
rope = torch.ops.autodeploy.rope.default


def subject(rotate: Rotate) -> GraphModule:
    """Attention over the rotated rows of inputs q, k, v, cos, sin, other and those of a step."""
    graph, mode = Graph(), FakeTensorMode()
    inputs = [graph.placeholder(f"input_{index}") for index in range(len(INPUTS))]
    for node, tensor in zip(inputs, INPUTS, strict=True):
        node.meta["val"] = mode.from_tensor(tensor)
    rows = [insert_call(graph, torch.ops.aten.select.int, (x, 0, 0)) for x in (*rotate(graph, inputs), inputs[2])]
    out = insert_call(graph, torch.ops.autodeploy.paged_attention.default, (*rows, *inputs[6:], 0.3, None, 5.0))
    graph.output((out, rows[1]) if rotate is also_read else (out,))
    return GraphModule(torch.nn.Module(), graph)


def alike(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    q, k, _, cos, sin, *_ = inputs
    return insert_call(graph, rope, (q, cos, sin, True)), insert_call(graph, rope, (k, cos, sin, True))


def also_read(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    return alike(graph, inputs)


def different(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    q, k, _, cos, sin, other, *_ = inputs
    return insert_call(graph, rope, (q, cos, sin)), insert_call(graph, rope, (k, cos, other))


def only_queries(graph: Graph, inputs: list[Node]) -> tuple[Node, Node]:
    q, k, _, cos, sin, *_ = inputs
    return insert_call(graph, rope, (q, cos, sin)), k


def context(*kernels: object) -> Context:
    table = KernelTable([reference_kernel(ops.rope_paged_attention), *kernels])  # type: ignore[list-item]
    return Context(None, WeightPlan(), torch.device("cpu"), kernels=table)  # type: ignore[arg-type]


def results(gm: GraphModule) -> list[Tensor]:
    inputs = [x.clone() for x in INPUTS]
    gm.recompile()
    return [*gm(*inputs), *inputs[6:8]]


def test_rotations_are_fused() -> None:
    gm = subject(alike)
    expected = results(gm)
    assert FuseRopeCache().run(gm, context(KERNEL)) == 1
    assert targets(gm)[-1] == "autodeploy.rope_paged_attention.default"
    assert "autodeploy.rope.default" not in targets(gm)
    gm.graph.lint()
    for one, other in zip(results(gm), expected, strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


@pytest.mark.parametrize(
    ("rotate", "reason"),
    [
        (also_read, "something else reads the rotated k"),
        (different, "q and k are rotated by different angles"),
        (only_queries, "k is not the row of a rotation"),
    ],
)
def test_declined(rotate: Rotate, reason: str) -> None:
    gm, ctx = subject(rotate), context(KERNEL)
    assert FuseRopeCache().run(gm, ctx) == 0
    assert [miss.reason for miss in ctx.misses] == [reason]


def test_nothing_is_fused_without_a_kernel() -> None:
    gm, ctx = subject(alike), context()
    assert FuseRopeCache().run(gm, ctx) == 0
    assert [miss.reason for miss in ctx.misses] == ["no kernel of cpu does both in one"]

"""The projection that makes the logits, and what quantizes its input."""

from __future__ import annotations

import operator

import torch
from torch.fx import Graph, Node

from autodeploy.graph.nodes import is_call

aten = torch.ops.aten
ops = torch.ops.autodeploy
_POINTWISE = (
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.tanh.default,
    aten.to.dtype,
    ops.soft_cap.default,
)
PROJECTIONS = (ops.linear.default, ops.packed_linear.default, ops.scaled_linear.default)
"""What a projection may be when its precision is settled."""


def find_head(graph: Graph) -> Node | None:
    """The last projection before the output, where only scales, caps and casts follow it."""
    node = graph.output_node().args[0]
    while is_call(node, *_POINTWISE) and all(part.op == "get_attr" for part in node.all_input_nodes[1:]):
        node = node.args[0]
    return node if is_call(node, *PROJECTIONS) else None


def quantizer_of(projection: Node) -> Node | None:
    """The call of `quantize` that gives a projection its input; None where that is not quantized, or fused."""
    values = projection.args[0]
    source = values.args[0] if is_call(values, operator.getitem) else None
    return source if is_call(source, ops.quantize.default) else None

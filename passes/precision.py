"""The precision that `mark_precision` gives a projection: it stands on the node of its weight, where joins keep it."""

from __future__ import annotations

import operator

import torch
from torch.fx import Graph, Node

from autodeploy.graph.nodes import is_call
from autodeploy.quantization import SCHEMES, Precision, Scheme

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


def mark(weight: Node, precision: Precision) -> None:
    """Say how the projections that read `weight` are to be computed."""
    weight.meta["precision"] = precision


def inherit_mark(weight: Node, like: object) -> None:
    """Mark `weight` as `like` is marked, if it is."""
    if isinstance(like, Node) and "precision" in like.meta:
        weight.meta["precision"] = like.meta["precision"]


def scheme_of(weight: object) -> Scheme:
    """The scheme of a projection by the node of its weight; that of an unmarked one changes nothing."""
    found = weight.meta.get("precision") if isinstance(weight, Node) else None
    return found.scheme if isinstance(found, Precision) else SCHEMES["none"]


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

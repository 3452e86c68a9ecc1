"""Tensors as they are once quantized and scaled back, by plain operators: what lossy passes are compared with."""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

from autodeploy.graph.nodes import insert_call, value

aten = torch.ops.aten
quantize_op = torch.ops.autodeploy.quantize.default


def rounded(x: Node, format: str, group: int = 0, scale: Node | None = None) -> Node:
    """`x` in its own dtype, rounded as `quantize(x, format, group, scale)` says, at the graph's insertion point."""
    graph = x.graph
    both = insert_call(graph, quantize_op, (x, format, group, scale))
    values, found = (insert_call(graph, operator.getitem, (both, index)) for index in range(2))
    wide = insert_call(graph, aten.to.dtype, (values, torch.float32))
    if group:
        found = insert_call(graph, aten.repeat_interleave.self_int, (found, group, -1))
    return insert_call(graph, aten.to.dtype, (insert_call(graph, aten.mul.Tensor, (wide, found)), value(x).dtype))

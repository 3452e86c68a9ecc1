"""Einsums of two operands as matmuls of reordered ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import Node

from autodeploy.graph.nodes import insert_call, value

aten = torch.ops.aten


def as_matmul(node: Node) -> Node | None:
    """A matmul that computes the einsum `node`, with what reorders its operands and its result; None for another kind.

    That kind has operands that share some dimensions, which the result keeps, sum over one and keep one each. The
    calls are inserted at the graph's insertion point.
    """
    equation, operands = node.args[:2]
    names = str(equation).replace(" ", "").replace("->", ",").split(",")
    if not isinstance(operands, (list, tuple)) or len(operands) != 2 or len(names) != 3 or "." in str(equation):
        return None
    left, right, out = names
    shared = "".join(name for name in out if name in left and name in right)
    rows = "".join(name for name in left if name in out and name not in right)
    columns = "".join(name for name in right if name in out and name not in left)
    summed = "".join(name for name in left if name in right and name not in out)
    orders = (shared + rows + summed, shared + summed + columns, shared + rows + columns)
    if not shared or not len(rows) == len(columns) == len(summed) == 1:
        return None
    if any(sorted(order) != sorted(given) for order, given in zip(orders, names, strict=True)):
        return None  # a dimension that is repeated, or summed over in one operand alone
    first, second = (_reordered(*one) for one in zip(operands, names[:2], orders[:2], strict=True))
    return _reordered(insert_call(node.graph, aten.matmul.default, (first, second)), orders[2], out)


def _reordered(operand: object, names: str, order: Sequence[str]) -> Node:
    assert isinstance(operand, Node)
    dims = [names.index(name) for name in order]
    if dims == list(range(value(operand).dim())):
        return operand
    return insert_call(operand.graph, aten.permute.default, (operand, dims))

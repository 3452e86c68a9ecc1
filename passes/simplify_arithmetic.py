"""Arithmetic with a number that changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch.fx import Node

from autodeploy.graph.nodes import value

aten = torch.ops.aten


def _without(neutral: int) -> Callable[[Node], Node]:
    """Take an operation with the number `neutral` for its first operand, unless it also promotes the dtype."""

    def simplify(node: Node) -> Node:
        source, number = node.args[:2]
        if not isinstance(source, Node) or not isinstance(number, (int, float)) or number != neutral:
            return node
        return source if value(source).dtype == value(node).dtype else node

    return simplify


_without_zero, _without_one = _without(0), _without(1)

ARITHMETIC: Mapping[object, Callable[[Node], Node | None]] = MappingProxyType(
    {
        aten.add.Tensor: _without_zero,  # of a zero it changes the sign at most, and zeros of either sign are equal
        aten.add.Scalar: _without_zero,
        aten.sub.Tensor: _without_zero,
        aten.sub.Scalar: _without_zero,
        aten.mul.Tensor: _without_one,
        aten.mul.Scalar: _without_one,
        aten.div.Tensor: _without_one,
        aten.div.Scalar: _without_one,
        aten.pow.Tensor_Scalar: _without_one,
    }
)
"""What takes the place of a call of each operator: another node, or itself."""

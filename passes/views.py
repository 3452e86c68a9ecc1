"""Views as values: applied again to a new tensor, and undone by putting a part back into the whole."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import SymInt
from torch.fx import Node

from autodeploy.errors import UnsupportedError
from autodeploy.graph.nodes import insert_call, value

aten = torch.ops.aten
_SAME = frozenset({aten.alias.default, aten.detach.default, aten.dropout.default})
_CASTS = frozenset({aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.type_as.default})
_RESHAPES = frozenset({aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int})
_VIEWS = frozenset(
    {
        operator.getitem,
        aten.view.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.unsqueeze.default,
        aten.squeeze.dim,
        aten.transpose.int,
        aten.permute.default,
        aten.t.default,
        aten.expand.default,
        aten.chunk.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.unbind.int,
        aten.diagonal.default,
    }
)


@dataclass(frozen=True)
class View:
    """A call that shows a part of its first argument, or all of it in another shape, without a copy."""

    target: Any
    args: tuple[Any, ...]

    def of(self, whole: Node) -> Node:
        """The same view of another tensor, at the graph's insertion point."""
        return insert_call(whole.graph, self.target, (whole, *self.args))

    def put(self, part: Node, whole: Node) -> Node:
        """`whole` with `part` where this view of it was; UnsupportedError for a view that cannot be undone."""
        graph = whole.graph
        if self.target in (aten.slice.Tensor, aten.select.int):
            scatter = aten.slice_scatter if self.target is aten.slice.Tensor else aten.select_scatter
            return insert_call(graph, scatter.default, (whole, part, *self.args))
        if self.target in (aten.transpose.int, aten.t.default):
            return insert_call(graph, self.target, (part, *self.args))
        if self.target is aten.unsqueeze.default:
            return insert_call(graph, aten.squeeze.dim, (part, *self.args))
        if self.target is aten.permute.default:
            order = [dim % len(self.args[0]) for dim in self.args[0]]
            return insert_call(graph, self.target, (part, [order.index(dim) for dim in range(len(order))]))
        if self.target in (*_RESHAPES, aten.squeeze.dim):
            sizes = [-1 if isinstance(size, SymInt) else size for size in value(whole).shape]
            if sizes.count(-1) < 2:
                return insert_call(graph, aten.reshape.default, (part, sizes))
        raise UnsupportedError(f"a write through {self.target} has no form that returns the whole; write to a copy")


def views_of(node: Node) -> tuple[View, ...] | None:
    """How `node` sees its first argument: as itself (no view), through a view, or None where it may be a copy."""
    if node.target in _VIEWS:
        return (View(node.target, node.args[1:]),)
    source = node.args[0]
    assert isinstance(source, Node)
    if node.target in _SAME or (node.target in _CASTS and value(source).dtype == value(node).dtype):
        return ()
    if node.target is aten.contiguous.default or node.target in _RESHAPES:
        if not value(source).is_contiguous():
            return None
        return () if node.target is aten.contiguous.default else (View(node.target, node.args[1:]),)
    return None

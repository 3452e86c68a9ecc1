"""Take out what export leaves behind and bring the rest into one form."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import arguments, calls_of, insert_call, is_call, value
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite.apply import erase_unused

aten = torch.ops.aten


class CleanGraph(Pass):
    """Remove checks, copies and casts that change nothing, and write casts, reshapes and slices in one way."""

    name: ClassVar[str] = "clean_graph"
    stage: ClassVar[Stage] = Stage.CLEAN
    cleanup: ClassVar[bool] = True

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Simplify node by node, in graph order, so that one sweep is enough."""
        changed = 0
        for node in list(gm.graph.nodes):
            simplify = _SIMPLIFY.get(node.target) if node.op == "call_function" else None
            if simplify is None or node._erased:
                continue
            with gm.graph.inserting_before(node):
                replacement = simplify(node)
            if replacement is node:
                continue
            if not ctx.spend():
                break
            changed += 1
            if replacement is not None:
                node.replace_all_uses_with(replacement)
            if not node.users:
                _erase(node)
        return changed


def _erase(node: Node) -> None:
    """Erase a node that export marks as having effects, or any other that lost its users."""
    inputs = node.all_input_nodes
    node.graph.erase_node(node)
    for parent in inputs:
        erase_unused(parent)


def _drop(node: Node) -> None:
    """A check of what the fake values already prove."""


def _first(node: Node) -> Node:
    """A copy, an alias or an inactive dropout: its input serves as well."""
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _cast(node: Node) -> Node:
    """Every conversion as `to.dtype`, and none where the dtype stays; devices are chosen when the program loads."""
    source, dtype = _first(node), value(node).dtype
    if value(source).dtype == dtype:
        return source
    if node.target is aten.to.dtype and len(node.args) == 2:
        return node
    return insert_call(node.graph, aten.to.dtype, (source, dtype))


def _reshape(node: Node) -> Node:
    """`view` and `reshape` as `reshape`, of the first shape only, and none where the shape stays."""
    source = _first(node)
    if is_call(source, aten.reshape.default):
        source = _first(source)
    if _same_shape(value(source), value(node)):
        return source
    if node.target is aten.reshape.default and node.args[0] is source:
        return node
    return insert_call(node.graph, aten.reshape.default, (source, node.args[1]))


def _flatten(node: Node) -> Node:
    """`flatten` of trailing dimensions as `reshape`, unless the product of their sizes is unknown."""
    source, shape = _first(node), value(node).shape
    if not isinstance(shape[-1], int) or len(shape) != int(arguments(node)["start_dim"]) % value(source).dim() + 1:
        return node
    sizes: list[int | Node] = []
    for dim, size in enumerate(shape):
        sizes.append(size if isinstance(size, int) else _size_node(node, source, dim))
    return insert_call(node.graph, aten.reshape.default, (source, sizes))


def _size_node(before: Node, source: Node, dim: int) -> Node:
    """A node of the size of `source` at `dim`: an earlier one or an input's, so that `source` has no user for it."""
    size = str(value(source).shape[dim])
    for node in calls_of(before.graph, aten.sym_size.int):
        if str(node.meta["val"]) == size and node < before:
            return node
    inputs = before.graph.find_nodes(op="placeholder")
    sizes = ((node, place) for node in inputs for place, own in enumerate(value(node).shape) if str(own) == size)
    return insert_call(before.graph, aten.sym_size.int, next(sizes, (source, dim)))


def _cat(node: Node) -> Node:
    """A concatenation without its empty parts, and none of a single part."""
    given = cast("list[Node]", node.args[0])
    parts = [part for part in given if not any(isinstance(size, int) and size == 0 for size in value(part).shape)]
    if len(parts) == 1:
        return parts[0]
    if len(parts) == len(given):
        return node
    return insert_call(node.graph, aten.cat.default, (parts, *node.args[1:]))


def _slice(node: Node) -> Node:
    """A slice with all its five arguments, its bounds within the dimension; none where it takes everything."""
    named = arguments(node)
    source, step = _first(node), named["step"]
    dim = named["dim"] % value(source).dim()
    size = value(source).shape[dim]
    start, end = named["start"] or 0, sys.maxsize if named["end"] is None else named["end"]
    if start == 0 and step == 1 and (end == sys.maxsize or end is size or _same_size(value(node).shape[dim], size)):
        return source
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        start, end = (min(max(bound + size * (bound < 0), 0), size) for bound in (start, end))
    if node.args == (source, dim, start, end, step):
        return node
    return insert_call(node.graph, aten.slice.Tensor, (source, dim, start, end, step))


def _transpose(node: Node) -> Node:
    """Two transposes of the same dimensions cancel."""
    source = _first(node)
    rank = value(node).dim()
    if is_call(source, aten.transpose.int) and _dims(source, rank) == _dims(node, rank):
        return _first(source)
    return node


def _scale(node: Node) -> Node:
    """Multiplying by one changes nothing, unless it also promotes the dtype or broadcasts."""
    source, factor = node.args[:2]
    if not isinstance(source, Node) or not isinstance(factor, (int, float)) or factor != 1:
        return node
    return source if value(source).dtype == value(node).dtype else node


def _dims(node: Node, rank: int) -> set[int]:
    return {int(dim) % rank for dim in node.args[1:3]}  # type: ignore[arg-type]


def _same_shape(left: Tensor, right: Tensor) -> bool:
    return left.dim() == right.dim() and all(map(_same_size, left.shape, right.shape))


def _same_size(left: int | torch.SymInt, right: int | torch.SymInt) -> bool:
    """Equal for every length, by the symbols' own expressions: nothing is specialized to the example."""
    return str(left) == str(right)


_SIMPLIFY: Mapping[object, Callable[[Node], Node | None]] = MappingProxyType(
    {
        aten._assert_tensor_metadata.default: _drop,
        aten.alias.default: _first,
        aten.detach.default: _first,
        aten.clone.default: _first,
        aten.contiguous.default: _first,
        aten.lift_fresh_copy.default: _first,
        aten.dropout.default: _first,
        aten.to.dtype: _cast,
        aten.to.device: _cast,
        aten.to.dtype_layout: _cast,
        aten.type_as.default: _cast,
        aten._to_copy.default: _cast,
        aten.view.default: _reshape,
        aten.reshape.default: _reshape,
        aten._unsafe_view.default: _reshape,
        aten.flatten.using_ints: _flatten,
        aten.slice.Tensor: _slice,
        aten.transpose.int: _transpose,
        aten.cat.default: _cat,
        aten.mul.Tensor: _scale,
    }
)

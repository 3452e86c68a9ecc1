"""Reshapes, slices, transposes and their like: in one form each, and none where nothing moves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor
from torch.fx import Node

from autodeploy.graph.nodes import arguments, insert_call, is_call, value
from autodeploy.passes.simplify_copies import source_of

aten = torch.ops.aten


def _reshape(node: Node) -> Node:
    """`view` and `reshape` as `reshape`, of the first shape only, and none where the shape stays."""
    source = source_of(node)
    if is_call(source, aten.reshape.default, aten.flatten.using_ints):
        source = source_of(source)
    if _same_shape(value(source), value(node)):
        return source
    if node.target is aten.reshape.default and node.args[0] is source:
        return node
    return insert_call(node.graph, aten.reshape.default, (source, node.args[1]))


def _flatten(node: Node) -> Node:
    """`flatten` of trailing dimensions as `reshape`, unless the product of their sizes is unknown."""
    source, shape = source_of(node), value(node).shape
    trails = len(shape) == int(arguments(node)["start_dim"]) % value(source).dim() + 1
    return _reshaped(node) if isinstance(shape[-1], int) and trails else node


def _unflatten(node: Node) -> Node:
    """`unflatten` of the last dimension, of known size, as `reshape`."""
    source = source_of(node)
    last = int(arguments(node)["dim"]) % value(source).dim() == value(source).dim() - 1
    return _reshaped(node) if isinstance(value(source).shape[-1], int) and last else node


def _reshaped(node: Node) -> Node:
    """A `reshape` to the shape of `node`, whose unknown sizes are those of the same dimensions of its source.

    None that takes back another.
    """
    source = source_of(node)
    if is_call(source, aten.reshape.default) and _same_shape(value(source_of(source)), value(node)):
        return source_of(source)
    sizes: list[int | Node] = []
    for dim, size in enumerate(value(node).shape):
        sizes.append(size if isinstance(size, int) else _size_node(node, source, dim))
    return insert_call(node.graph, aten.reshape.default, (source, sizes))


def _size_node(before: Node, source: Node, dim: int) -> Node:
    """A node of the size of `source` at `dim`: an earlier one or an input's, so that `source` has no user for it."""
    size = str(value(source).shape[dim])
    earlier: list[Node] = before.graph.find_nodes(op="call_function", target=aten.sym_size.int)
    for node in earlier:
        if str(node.meta["val"]) == size and node < before:
            return node
    inputs = before.graph.find_nodes(op="placeholder")
    sizes = ((node, place) for node in inputs for place, own in enumerate(value(node).shape) if str(own) == size)
    return insert_call(before.graph, aten.sym_size.int, next(sizes, (source, dim)))


def _slice(node: Node) -> Node:
    """A slice with all its five arguments, its bounds within the dimension; none where it takes everything."""
    named = arguments(node)
    source, step = source_of(node), named["step"]
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


def _squeeze(node: Node) -> Node:
    """None where no dimension goes, and none that takes back an `unsqueeze`."""
    source = source_of(node)
    if _same_shape(value(source), value(node)):
        return source
    if not is_call(node, aten.squeeze.dim) or not is_call(source, aten.unsqueeze.default):
        return node
    rank = value(source).dim()
    return source_of(source) if int(node.args[1]) % rank == int(source.args[1]) % rank else node  # type: ignore[arg-type]


def _unsqueeze(node: Node) -> Node:
    """None that takes back a `squeeze`."""
    source = source_of(node)
    if not is_call(source, aten.squeeze.dim):
        return node
    whole = source_of(source)
    return whole if _same_shape(value(whole), value(node)) else node


def _expand(node: Node) -> Node:
    """None where the shape stays."""
    return source_of(node) if _same_shape(value(source_of(node)), value(node)) else node


def _reorder(node: Node) -> Node:
    """None where the dimensions are, or return to be, in order; `transpose` where two are swapped."""
    order, source = order_of(node), source_of(node)
    if is_call(source, aten.transpose.int, aten.permute.default):
        inner = order_of(source)
        order, source = [inner[dim] for dim in order], source_of(source)
    moved = [dim for dim, place in enumerate(order) if dim != place]
    if not moved:
        return source
    if len(moved) > 2 or (source is node.args[0] and node.target is aten.transpose.int):
        return node
    return insert_call(node.graph, aten.transpose.int, (source, *moved))


def order_of(node: Node) -> list[int]:
    """Which dimension of its input each dimension of a transpose or permute is."""
    rank = value(node).dim()
    if node.target is aten.t.default:
        return list(reversed(range(rank)))
    if node.target is aten.permute.default:
        return [dim % rank for dim in cast("Sequence[int]", node.args[1])]
    swapped = (-2, -1) if node.target is aten.mT.default else node.args[1:3]
    first, second = (dim % rank for dim in cast("Sequence[int]", swapped))
    order = list(range(rank))
    order[first], order[second] = second, first
    return order


def _same_shape(left: Tensor, right: Tensor) -> bool:
    return left.dim() == right.dim() and all(map(_same_size, left.shape, right.shape))


def _same_size(left: int | torch.SymInt, right: int | torch.SymInt) -> bool:
    """Equal for every length, by the symbols' own expressions: nothing is specialized to the example."""
    return str(left) == str(right)


SHAPES: Mapping[object, Callable[[Node], Node | None]] = MappingProxyType(
    {
        aten.view.default: _reshape,
        aten.reshape.default: _reshape,
        aten._unsafe_view.default: _reshape,
        aten.flatten.using_ints: _flatten,
        aten.unflatten.int: _unflatten,
        aten.slice.Tensor: _slice,
        aten.squeeze.dim: _squeeze,
        aten.squeeze.dims: _squeeze,
        aten.squeeze.default: _squeeze,
        aten.unsqueeze.default: _unsqueeze,
        aten.expand.default: _expand,
        aten.transpose.int: _reorder,
        aten.permute.default: _reorder,
        aten.mT.default: _reorder,
        aten.t.default: _reorder,
    }
)
"""What takes the place of a call of each operator: another node, or itself."""

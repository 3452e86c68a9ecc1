"""Tensors put together from parts: as `cat`, and only of parts that hold something."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import cast

import torch
from torch.fx import Node

from autodeploy.graph.nodes import arguments, insert_call, is_call, value
from autodeploy.passes.simplify_copies import source_of

aten = torch.ops.aten


def _cat(node: Node) -> Node:
    """A concatenation without its empty parts, and none of a single part."""
    given = cast("list[Node]", node.args[0])
    parts = [part for part in given if not any(isinstance(size, int) and size == 0 for size in value(part).shape)]
    if not parts or value(parts[0]).dtype != value(node).dtype or len(parts) == len(given) > 1:
        return node
    return parts[0] if len(parts) == 1 else insert_call(node.graph, aten.cat.default, (parts, *node.args[1:]))


def _slice_scatter(node: Node) -> Node:
    """What is written over all of a tensor, or as `cat` what is written over its first and its last part."""
    written = _written(node)
    if written is None:
        return node
    part, dim, start, end = written
    size, source = value(node).shape[dim], source_of(node)
    if (start, end) == (0, size):
        return part
    other = _written(source) if is_call(source, aten.slice_scatter.default) else None
    if other is None or other[1] != dim or not _cover(size, (start, end), other[2:]):
        return node
    parts = [part, other[0]] if start == 0 else [other[0], part]
    return insert_call(node.graph, aten.cat.default, (parts, dim))


def _cover(size: int, *ranges: tuple[int, int]) -> bool:
    """Whether two ranges, one after the other, are all of a dimension."""
    first, last = sorted(ranges)
    return first[0] == 0 and first[1] == last[0] and last[1] == size


def _written(node: Node) -> tuple[Node, int, int, int] | None:
    """What a `slice_scatter` writes, along which dimension, from where to where; None where that is not known."""
    named = arguments(node)
    dim = named["dim"] % value(node).dim()
    size = value(node).shape[dim]
    start, end = named["start"] or 0, sys.maxsize if named["end"] is None else named["end"]
    if not all(isinstance(one, int) for one in (size, start, end)) or named["step"] != 1:
        return None
    start, end = (min(max(bound + size * (bound < 0), 0), size) for bound in (start, end))
    return named["src"], dim, int(start), int(end)


JOINS: Mapping[object, Callable[[Node], Node | None]] = MappingProxyType(
    {aten.cat.default: _cat, aten.slice_scatter.default: _slice_scatter}
)
"""What takes the place of a call of each operator: another node, or itself."""

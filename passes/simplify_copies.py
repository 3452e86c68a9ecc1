"""Checks, copies and casts that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch.fx import Node

from autodeploy.graph.nodes import insert_call, is_call, value

aten = torch.ops.aten


def source_of(node: Node) -> Node:
    """The input of an operator of one tensor: a copy, an alias or an inactive dropout is as good as it."""
    source = node.args[0]
    assert isinstance(source, Node)
    return source


def _drop(node: Node) -> None:
    """A check of what the fake values already prove."""


def _dropout(node: Node) -> Node:
    """A dropout that is not training."""
    return node if node.args[2] else source_of(node)


def _cast(node: Node) -> Node:
    """Every conversion as `to.dtype`, and none where the dtype stays; devices are chosen when the program loads."""
    source, dtype = source_of(node), value(node).dtype
    if is_call(source, aten.to.dtype) and _holds(value(source).dtype, value(source_of(source)).dtype):
        source = source_of(source)
    if value(source).dtype == dtype:
        return source
    if node.target is aten.to.dtype and node.args[0] is source and len(node.args) == 2:
        return node
    return insert_call(node.graph, aten.to.dtype, (source, dtype))


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether every number of `narrow` is one of `wide`, so that converting to it first changes nothing."""
    alike = wide.is_floating_point == narrow.is_floating_point and torch.bool not in (wide, narrow)
    return alike and not wide.is_complex and torch.promote_types(wide, narrow) == wide


COPIES: Mapping[object, Callable[[Node], Node | None]] = MappingProxyType(
    {
        aten._assert_tensor_metadata.default: _drop,
        aten.alias.default: source_of,
        aten.detach.default: source_of,
        aten.detach_.default: source_of,
        aten.clone.default: source_of,
        aten.contiguous.default: source_of,
        aten.lift_fresh_copy.default: source_of,
        aten.dropout.default: _dropout,
        aten.to.dtype: _cast,
        aten.to.device: _cast,
        aten.to.dtype_layout: _cast,
        aten.type_as.default: _cast,
        aten._to_copy.default: _cast,
    }
)
"""What takes the place of a call of each operator: another node, itself, or nothing at all."""

"""One pass over a row for the sum with the residual and its norm."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import Target, calls_of, insert_call, is_call, value
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss
from autodeploy.rewrite.apply import erase_unused

ops = torch.ops.autodeploy
aten = torch.ops.aten
add_op = aten.add.Tensor
_OF_SUM: Mapping[Target, torch._ops.OpOverload] = MappingProxyType(
    {ops.rms_norm.default: ops.add_rms_norm.default, ops.layer_norm.default: ops.add_layer_norm.default}
)


class FuseResidualNorm(Pass):
    """Add the residual and normalize the sum in one operator, which gives both."""

    name: ClassVar[str] = "fuse_residual_norm"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = True

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Fuse every norm with the sum that it is of; another norm of that sum then reads it."""
        changed = 0
        for norm in calls_of(gm.graph, *_OF_SUM):
            reader = _reader_of_sum(norm)
            total = reader.args[0]
            if not is_call(total, add_op):
                continue
            reason = _declines(total, reader, norm)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, norm, total, reason))
            elif ctx.spend():
                _fuse(total, reader, norm)
                changed += 1
        return changed


def _reader_of_sum(norm: Node) -> Node:
    """The norm, or the reshape before it that leaves whole what is normalized (OPT)."""
    x = norm.args[0]
    if not is_call(x, aten.reshape.default):
        return norm
    return x if str(value(x).shape[-1]) == str(value(x.all_input_nodes[0]).shape[-1]) else norm


def _declines(total: Node, reader: Node, norm: Node) -> str | None:
    """None where `total` is a plain sum of two tensors alike that nothing reads before the norm, or the reason."""
    if len(total.args) > 2 or total.kwargs or not all(isinstance(term, Node) for term in total.args):
        return f"{total.name} is no plain sum of two tensors"
    shapes = {str((tuple(value(node).shape), value(node).dtype)) for node in (total, *total.all_input_nodes)}
    if len(shapes) > 1:
        return f"{total.name} adds tensors of different shapes or dtypes"
    late = [node.name for node in norm.all_input_nodes if node is not reader and reader < node]
    if late and reader is not norm:
        return f"{late[0]} is computed after the sum was reshaped"
    first = min(total.users)
    return None if first is reader else f"{first.name} reads the sum before the norm"


def _fuse(total: Node, reader: Node, norm: Node) -> None:
    graph, x, residual = norm.graph, *total.args
    assert callable(norm.target)
    with graph.inserting_before(reader):
        both = insert_call(graph, _OF_SUM[norm.target], (x, residual, *norm.args[1:]), norm.kwargs)
        normed, summed = (insert_call(graph, operator.getitem, (both, index)) for index in range(2))
        if reader is not norm:
            normed = insert_call(graph, aten.reshape.default, (normed, *reader.args[1:]))
    norm.replace_all_uses_with(normed)
    total.replace_all_uses_with(summed)
    erase_unused(total)
    erase_unused(norm)

"""Compute the end of the model only for the rows whose logits are wanted."""

from __future__ import annotations

import operator
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from autodeploy.graph.nodes import infer_from, insert_call, is_call, value
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss

aten = torch.ops.aten
ops = torch.ops.autodeploy
_PROJECTIONS = (
    ops.linear.default,
    ops.linear_activation.default,
    ops.gated_linear.default,
    ops.residual_linear.default,
    ops.packed_linear.default,
    ops.packed_gated_linear.default,
    ops.scaled_linear.default,
    ops.scaled_gated_linear.default,
)
_BY_ROW = (
    *_PROJECTIONS,
    ops.quantize.default,
    ops.rms_norm_quantize.default,
    ops.add_rms_norm_quantize.default,
    ops.gated_activation_quantize.default,
    ops.rms_norm.default,
    ops.layer_norm.default,
    ops.add_rms_norm.default,
    ops.add_layer_norm.default,
    ops.activate.default,
    ops.gated_activation.default,
    aten.add.Tensor,
    aten.mul.Tensor,
)
"""Operators each row of whose results follows from the same row of what they are given."""


class HoistLogitRows(Pass):
    """Select the rows that `logit_rows` names as soon as no row looks at another: after the last attention.

    What projects and normalizes from there on sees `[1, R, ...]` in place of `[1, T, ...]`: of a prompt of T tokens
    one row, so that the last layer costs little more than its attention.
    """

    name: ClassVar[str] = "hoist_logit_rows"
    stage: ClassVar[Stage] = Stage.CACHE  # after gather_logit_rows, whose selection it moves
    exact: ClassVar[bool] = False  # a matmul of fewer rows may sum in another order
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Move the selection in front of everything that works row by row; 0 where no projection would follow it."""
        selection = _selection(gm.graph)
        if selection is None:
            return 0
        region = _region(selection)
        if not any(is_call(node, *_PROJECTIONS) for node in region):
            reason = f"no projection lies between {selection.args[0]} and what mixes rows"
            ctx.misses.append(Miss.at(self.name, selection, selection, reason))
            return 0
        if not ctx.spend():
            return 0
        _move(selection, region)
        return 1


def _selection(graph: Graph) -> Node | None:
    """The call that selects by `logit_rows`, if the graph has that input."""
    rows = next((node for node in graph.find_nodes(op="placeholder") if node.target == "logit_rows"), None)
    return None if rows is None else next(user for user in rows.users if is_call(user, aten.index_select.default))


def _region(selection: Node) -> list[Node]:
    """What computes by row and is read by nothing but the selection and the rest of it, in graph order."""
    within = {selection}
    node = selection.prev
    while node.op != "root":
        if node.users and within.issuperset(node.users) and _is_by_row(node, selection):
            within.add(node)
        node = node.prev
    within.remove(selection)
    # Parts of something that mixes rows are where the region begins.
    return [node for node in selection.graph.nodes if node in within and _source(node) in (None, *within)]


def _is_by_row(node: Node, selection: Node) -> bool:
    if _source(node) is not None:
        return True
    by_row = is_call(node, *_BY_ROW) or (is_call(node, aten.split_with_sizes.default) and node.args[2:] == (-1,))
    return by_row and all(one.op == "get_attr" or _has_rows(one, selection) for one in node.all_input_nodes)


def _source(node: Node) -> Node | None:
    """What a node takes a part of; None where it computes."""
    source = node.args[0] if is_call(node, operator.getitem) else None
    return source if isinstance(source, Node) else None


def _has_rows(node: Node, selection: Node) -> bool:
    """Whether a node's value has a row for each token: `[1, T, ...]`, as what is selected from."""
    found, hidden = node.meta.get("val"), selection.args[0]
    assert isinstance(hidden, Node)
    return isinstance(found, Tensor) and found.ndim > 1 and str(found.shape[:2]) == str(value(hidden).shape[:2])


def _move(selection: Node, region: list[Node]) -> None:
    """Select of all that the region reads, and compute it and all that follows anew."""
    graph, (hidden, dim, rows), inside = selection.graph, selection.args, set(region)
    for node in region:
        for outer in node.all_input_nodes:
            if outer not in inside and _has_rows(outer, selection):
                with graph.inserting_before(node):
                    selected = insert_call(graph, aten.index_select.default, (outer, dim, rows))
                outer.replace_all_uses_with(selected, delete_user_cb=inside.__contains__)
    selection.replace_all_uses_with(hidden)  # type: ignore[arg-type]
    graph.erase_node(selection)
    infer_from(region[0])

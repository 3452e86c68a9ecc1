"""Compute logits only for the rows that are sampled from."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.errors import UnsupportedError
from autodeploy.graph.inputs import add_placeholder
from autodeploy.graph.nodes import fake_mode_of, infer, insert_call, is_call
from autodeploy.pipeline import Context, Pass, Stage

aten = torch.ops.aten
_POINTWISE = (
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.tanh.default,
    aten.to.dtype,
    torch.ops.autodeploy.soft_cap.default,
)


class GatherLogitRows(Pass):
    """Select rows by the input `logit_rows` (int64 `[R]`) before the head: logits become `[1, R, vocabulary]`."""

    name: ClassVar[str] = "gather_logit_rows"
    stage: ClassVar[Stage] = Stage.CACHE
    exact: ClassVar[bool] = False  # a matmul of fewer rows may sum in another order
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Find the head from the output and put the selection in front of it."""
        if not ctx.spend():
            return 0
        head = _head(gm)
        rows = add_placeholder(gm, "logit_rows", (None,), torch.int64)
        hidden = head.args[0]
        with gm.graph.inserting_before(head):
            gathered = insert_call(gm.graph, aten.index_select.default, (hidden, 1, rows))
        head.replace_input_with(hidden, gathered)  # type: ignore[arg-type]
        _infer_from(head)
        return 1


def _head(gm: GraphModule) -> Node:
    """The last projection before the output, where only scales, caps and casts follow it."""
    node = gm.graph.output_node().args[0]
    while is_call(node, *_POINTWISE) and all(part.op == "get_attr" for part in node.all_input_nodes[1:]):
        node = node.args[0]
    if not is_call(node, torch.ops.autodeploy.linear.default):
        raise UnsupportedError(
            f"the logits come from {node}, not from a projection, so rows of them cannot be selected"
        )
    return node


def _infer_from(first: Node) -> None:
    """Compute the values of `first` and of all that follows it anew."""
    mode = fake_mode_of(first.graph)
    node = first
    while node.op != "output":
        infer(node, mode)
        node = node.next

"""Compute logits only for the rows that are sampled from."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.errors import UnsupportedError
from autodeploy.graph.inputs import add_placeholder
from autodeploy.graph.nodes import infer_from, insert_call
from autodeploy.passes.heads import find_head, quantizer_of
from autodeploy.pipeline import Context, Pass, Stage

aten = torch.ops.aten


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
        reader = _reader(gm)
        rows = add_placeholder(gm, "logit_rows", (None,), torch.int64)
        hidden = reader.args[0]
        with gm.graph.inserting_before(reader):
            gathered = insert_call(gm.graph, aten.index_select.default, (hidden, 1, rows))
        reader.replace_input_with(hidden, gathered)  # type: ignore[arg-type]
        infer_from(reader)
        return 1


def _reader(gm: GraphModule) -> Node:
    """What reads the hidden states of the head: itself, or what quantizes them for it."""
    head = find_head(gm.graph)
    if head is None:
        raise UnsupportedError(
            f"the logits come from {gm.graph.output_node().args[0]}, not from a projection,"
            " so rows of them cannot be selected"
        )
    return quantizer_of(head) or head

"""The selection of the rows whose logits are wanted."""

from __future__ import annotations

import torch
from torch.fx import Graph, Node

from autodeploy.graph.nodes import is_call

LOGIT_ROWS = "logit_rows"
"""The input that names the rows."""


def selects_logits(node: Node) -> bool:
    """Whether a call picks the rows that the runtime asks for."""
    selects = is_call(node, torch.ops.aten.index_select.default)
    return selects and getattr(node.args[2], "target", None) == LOGIT_ROWS


def without_selection(graph: Graph) -> Graph:
    """A copy of a graph that computes logits of all rows, in their order. The input that names rows is left unread."""
    copy = Graph()
    copy.output(copy.graph_copy(graph, {}))
    for node in list(copy.nodes):
        if selects_logits(node):
            node.replace_all_uses_with(node.args[0])
            copy.erase_node(node)
    return copy

"""Before and after a pass: both graphs, open and centred where they differ, and the lines that changed."""

from __future__ import annotations

from markupsafe import Markup
from torch.fx import Graph

from autodeploy.graph.diff import GraphDiff
from autodeploy.graph.text import node_text
from autodeploy.inspect.fold import fold_graph
from autodeploy.inspect.graph_page import draw_graph
from autodeploy.inspect.model import INPUTS, GraphView
from autodeploy.inspect.page import render


def draw_diff(diff: GraphDiff) -> Markup:
    """Both graphs side by side, where they are at hand, above the lines."""
    panes: list[tuple[str, Markup]] = []
    if diff.graphs is not None and diff.lines:
        before, after = diff.graphs
        panes = [("before", _pane(before, after, "removed")), ("after", _pane(after, before, "added"))]
    return render("diff.html", diff=diff, panes=panes)


def find_marks(view: GraphView, graph: Graph, other: Graph, absent: str) -> dict[str, str]:
    """The operations whose nodes `other` has not, as `absent`, and those that read something else, as rewired."""
    own, others = _texts(graph), _texts(other)
    marks: dict[str, str] = {}
    for one in view.operations():
        if any(name not in others for name in one.names):
            marks[one.id] = absent
        elif any(others[name] != own[name] for name in one.names):
            marks[one.id] = "rewired"
    return marks


def _pane(graph: Graph, other: Graph, absent: str) -> Markup:
    """One of the graphs, open where its operators are gone or new, or else where they read something else."""
    view = fold_graph(graph, absent)
    marks = find_marks(view, graph, other, absent)
    telling = {one for one, mark in marks.items() if mark == absent} or set(marks)
    calls = (one for one in view.root.groups() if one.label != INPUTS)  # new inputs matter less than what reads them
    groups = (one.id for one in calls if any(inner.id in telling for inner in one.operations()))
    return draw_graph(view, marks, frozenset(groups))


def _texts(graph: Graph) -> dict[str, str]:
    return {node.name: node_text(node) if node.op != "output" else "" for node in graph.nodes if node.op != "get_attr"}

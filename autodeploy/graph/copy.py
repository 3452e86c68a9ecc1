"""Copies of graphs that can be rewritten without changing the original."""

from __future__ import annotations

from torch.fx import Graph, GraphModule


def copy_graph(graph_module: GraphModule) -> GraphModule:
    """A graph of its own over the same meta tensors, with the same values and names."""
    graph = Graph()
    graph.output(graph.graph_copy(graph_module.graph, {}))
    return GraphModule(graph_module, graph)

"""Writes into memory, which no match may move a read across."""

from __future__ import annotations

from collections.abc import Iterable, Set

from torch.fx import Graph, Node

from autodeploy.graph.aliases import writes, written


class Writes:
    """The memory that calls of a graph write, and the last of those calls.

    Rewrites keep it true: none takes part in a match that shares memory with what is written later.
    """

    def __init__(self, graph: Graph) -> None:
        writers = [node for node in graph.nodes if node.op == "call_function" and writes(node)]
        self._last = writers[-1] if writers else None
        self._written: frozenset[Node] = written(graph) if writers else frozenset()

    def between(self, interior: Set[Node], inputs: Iterable[Node]) -> tuple[Node, str] | None:
        """The node of a match whose memory may change once the match has begun to read, and the reason to decline."""
        if self._last is None or self._last < min(interior):
            return None
        touched = sorted(self._written.intersection([*interior, *inputs]))
        if not touched:
            return None
        return touched[0], f"{touched[0]} shares memory with what a call up to {self._last} writes"

"""Take out what export leaves behind and bring the rest into one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from torch.fx import GraphModule, Node

from autodeploy.graph.aliases import written
from autodeploy.passes.simplify_arithmetic import ARITHMETIC
from autodeploy.passes.simplify_copies import COPIES
from autodeploy.passes.simplify_joins import JOINS
from autodeploy.passes.simplify_shapes import SHAPES
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite.apply import erase_unused

_SIMPLIFY: Mapping[object, Callable[[Node], Node | None]] = MappingProxyType(
    {**COPIES, **SHAPES, **JOINS, **ARITHMETIC}
)


class CleanGraph(Pass):
    """Remove what changes nothing (checks, copies, casts, moves, `x * 1`), and write casts and moves in one way."""

    name: ClassVar[str] = "clean_graph"
    stage: ClassVar[Stage] = Stage.CLEAN
    cleanup: ClassVar[bool] = True

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Simplify node by node, in graph order, so that one sweep is enough. What memory is written stays as it is."""
        changed, kept = 0, written(gm.graph)
        for node in list(gm.graph.nodes):
            simplify = _SIMPLIFY.get(node.target) if node.op == "call_function" else None
            if simplify is None or node._erased or _touches(node, kept):
                continue
            with gm.graph.inserting_before(node):
                replacement = simplify(node)
            if replacement is node:
                continue
            if not ctx.spend():
                break
            changed += 1
            if replacement is not None:
                node.replace_all_uses_with(replacement)
            if not node.users:
                _erase(node)
        return changed


def _touches(node: Node, kept: frozenset[Node]) -> bool:
    """Whether a call reads or returns memory that is written: then a copy of it is not the same as it."""
    return bool(kept) and (node in kept or not kept.isdisjoint(node.all_input_nodes))


def _erase(node: Node) -> None:
    """Erase a node that export marks as having effects, or any other that lost its users."""
    inputs = node.all_input_nodes
    node.graph.erase_node(node)
    for parent in inputs:
        erase_unused(parent)

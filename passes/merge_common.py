"""Compute once what a graph computes several times."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

from torch.fx import GraphModule, Node

from autodeploy.graph.aliases import is_pure, written
from autodeploy.pipeline import Context, Pass, Stage


class MergeCommon(Pass):
    """Give equal calls on equal arguments one node, the first.

    Calls that draw random numbers stay apart, and so do those that touch memory which some call writes.
    """

    name: ClassVar[str] = "merge_common"
    stage: ClassVar[Stage] = Stage.CLEAN
    cleanup: ClassVar[bool] = True

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Merge in graph order, so that the arguments of a call are merged before it."""
        changed, kept = 0, written(gm.graph)
        first: dict[Hashable, Node] = {}
        for node in list(gm.graph.nodes):
            if not is_pure(node) or node in kept or not kept.isdisjoint(node.all_input_nodes):
                continue
            same = first.setdefault(_key(node), node)
            if same is node:
                continue
            if not ctx.spend():
                break
            node.replace_all_uses_with(same)
            gm.graph.erase_node(node)
            changed += 1
        return changed


def _key(node: Node) -> Hashable:
    return node.target, _frozen(node.args), _frozen(sorted(node.kwargs.items()))


def _frozen(argument: Any) -> Hashable:
    """An argument as a key; numbers that are equal but of different types, or zeros of different signs, differ."""
    if isinstance(argument, (list, tuple)):
        return tuple(map(_frozen, argument))
    if isinstance(argument, slice):
        return "slice", *map(_frozen, (argument.start, argument.stop, argument.step))
    return (type(argument), repr(argument)) if isinstance(argument, (bool, int, float)) else argument

"""From writing into memory to computing new values."""

from __future__ import annotations

from typing import ClassVar

from torch.fx import GraphModule

from autodeploy.graph.aliases import writes, written
from autodeploy.passes.memory import Memory
from autodeploy.pipeline import Context, Pass, Stage


class Functionalize(Pass):
    """Replace every call that writes into a tensor of the graph's own by one that returns the new value.

    What reads the tensor afterwards, through whichever view of it, then reads the new value, so that later passes may
    move reads. Raises UnsupportedError for a write into an input or a weight, and for one through a view that has no
    inverse.
    """

    name: ClassVar[str] = "functionalize"
    stage: ClassVar[Stage] = Stage.EXPORT

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Replace all writes or, when the fuel does not last, none: half of them would leave two truths."""
        writers = [node for node in gm.graph.nodes if writes(node)]
        if not writers or not all(ctx.spend() for _ in writers):
            return 0
        touched = written(gm.graph)
        memory = Memory(touched)
        for node in list(gm.graph.nodes):
            if node in touched or not touched.isdisjoint(node.all_input_nodes):
                memory.visit(node)
        for node in reversed(writers):
            gm.graph.erase_node(node)
        return len(writers)

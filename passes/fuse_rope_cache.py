"""Rotary embedding on the way into the cache."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import arguments, calls_of, insert_call, is_call, value
from autodeploy.ops import rope_paged_attention
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss
from autodeploy.rewrite.apply import erase_unused

aten = torch.ops.aten
ops = torch.ops.autodeploy


class FuseRopeCache(Pass):
    """Rotate queries and keys inside paged attention, where a kernel of the device does both in one."""

    name: ClassVar[str] = "fuse_rope_cache"
    stage: ClassVar[Stage] = Stage.CACHE
    exact: ClassVar[bool] = True

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Fuse every attention whose queries and keys come from rotations alike that nothing else reads."""
        changed = 0
        for attention in calls_of(gm.graph, ops.paged_attention.default):
            reason = ctx.why_unserved(rope_paged_attention.overload, value(attention).dtype) or _declines(attention)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, attention, attention, reason))
            elif ctx.spend():
                _fuse(attention)
                changed += 1
        return changed


def _declines(attention: Node) -> str | None:
    """None where both rotations are by the same angles and end here, or the reason."""
    named = arguments(attention)
    rotations = []
    for name in "qk":
        row = named[name]
        if not is_call(row, aten.select.int) or row.args[1:] != (0, 0) or not is_call(row.args[0], ops.rope.default):
            return f"{name} is not the row of a rotation"
        if len(row.users) > 1 or len(row.args[0].users) > 1:
            return f"something else reads the rotated {name}"
        rotations.append(arguments(row.args[0]))
    q, k = rotations
    if any(q[name] != k[name] for name in ("cos", "sin", "interleaved")):
        return "q and k are rotated by different angles"
    return None if value(q["cos"]).dim() == 3 else "the angles are not those of one row of tokens"


def _fuse(attention: Node) -> None:
    graph, named = attention.graph, arguments(attention)
    q, k = (arguments(named[name].args[0]) for name in "qk")

    def row(node: Any) -> Node:
        return insert_call(graph, aten.select.int, (node, 0, 0))

    with graph.inserting_before(attention):
        rows = (row(q["x"]), row(k["x"]), named["v"], row(q["cos"]), row(q["sin"]))
        step = [named[name] for name in ("key_pages", "value_pages", "query_start", "context_len", "page_table")]
        options = [named[name] for name in ("window", "softcap", "sinks", "alibi_slopes", "key_scale", "value_scale")]
        args = (*rows, *step, named["slots"], named["scale"], q["interleaved"], *options)
        fused = insert_call(graph, ops.rope_paged_attention.default, args)
    attention.replace_all_uses_with(fused)
    graph.erase_node(attention)  # it writes, so that nothing counts it as unused
    for name in "qk":
        erase_unused(named[name])

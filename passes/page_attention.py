"""From attention over a row of tokens to attention over a paged cache."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.errors import UnsupportedError
from autodeploy.graph.inputs import add_placeholder
from autodeploy.graph.nodes import arguments, calls_of, insert_call, module_of, value
from autodeploy.graph.rows import check_attention_count, check_rows
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite.apply import erase_unused

aten = torch.ops.aten
ops = torch.ops.autodeploy


class PageAttention(Pass):
    """Give every attention its own key and value pages, and the step's page table, as inputs of the graph."""

    name: ClassVar[str] = "page_attention"
    stage: ClassVar[Stage] = Stage.CACHE
    exact: ClassVar[bool] = False  # attention over a cache may sum in another order
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Replace all attentions or, when the fuel does not last, none: the graph's inputs must be complete.

        Raises UnsupportedError where a row of tokens cannot be computed in pieces, beside those of other requests.
        """
        attentions = calls_of(gm.graph, ops.attention.default)
        if ctx.fuel == 0 or not all(ctx.spend() for _ in attentions):
            return 0
        for attention in attentions:
            _check(attention)
        check_attention_count(gm, ctx.config)
        check_rows(gm)
        step = [
            add_placeholder(gm, "query_start", (None,), torch.int32),
            add_placeholder(gm, "context_len", (None,), torch.int32),
            add_placeholder(gm, "page_table", (None, None), torch.int32),
            add_placeholder(gm, "slots", (None,), torch.int64),
        ]
        for layer, attention in enumerate(attentions):
            _page(gm, attention, layer, step)
        return len(attentions)


def _check(attention: Node) -> None:
    """Raise UnsupportedError for attention whose result would change when tokens follow, or that no cache holds."""
    named = arguments(attention)
    if not named["causal"] or named["bias"] is not None:
        what = "sees later tokens" if not named["causal"] else "has a mask or bias that is not named"
        raise UnsupportedError(f"{module_of(attention)}: {attention.name} {what}; only causal attention can be paged")


def _page(gm: GraphModule, attention: Node, layer: int, step: list[Node]) -> None:
    named = arguments(attention)
    pages = [_pages(gm, f"{kind}_pages_{layer}", named[kind[0]]) for kind in ("key", "value")]
    with gm.graph.inserting_before(attention):
        rows = [insert_call(gm.graph, aten.select.int, (named[name], 0, 0)) for name in "qkv"]
        options = [named[name] for name in ("scale", "window", "softcap", "sinks", "alibi_slopes")]
        paged = insert_call(gm.graph, ops.paged_attention.default, (*rows, *pages, *step, *options))
        out = insert_call(gm.graph, aten.unsqueeze.default, (paged, 0))
    attention.replace_all_uses_with(out)
    erase_unused(attention)


def _pages(gm: GraphModule, name: str, like: Node) -> Node:
    """An input for the pages of one layer: `[num_pages, num_kv_heads, page_size, head_dim]` of the row's dtype."""
    rows = value(like)
    return add_placeholder(gm, name, (None, int(rows.shape[2]), None, int(rows.shape[3])), rows.dtype)

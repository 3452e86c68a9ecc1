"""Graphs that round no input: what quantized graphs are compared by in float32.

A difference in the last bit of a number that lies on the border of two becomes one of a percent when it is rounded, and
would hide, or be taken for, a mistake. Weights are rounded all the same: they are constants.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch.fx import GraphModule, Node

from autodeploy import ops
from autodeploy.graph.copy import copy_graph
from autodeploy.graph.nodes import Target, arguments, calls_of, insert_call, is_call, value
from autodeploy.ops import CanonicalOp

aten = torch.ops.aten
_QUANTIZING = 3
"""How many arguments say how to quantize: format, group and scale, the last ones."""

_PLAIN: Mapping[Target, CanonicalOp | None] = MappingProxyType(
    {
        ops.quantize.overload: None,
        ops.rms_norm_quantize.overload: ops.rms_norm,
        ops.add_rms_norm_quantize.overload: ops.add_rms_norm,
        ops.gated_activation_quantize.overload: ops.gated_activation,
    }
)
_READERS = (ops.scaled_linear.overload, ops.scaled_gated_linear.overload)
_ATTENTIONS = (ops.paged_attention.overload, ops.rope_paged_attention.overload)


def continuous(gm: GraphModule) -> GraphModule:
    """A copy of `gm` in which quantized inputs are what they were, under a scale of one, and so are cached rows.

    What reads them is computed by the references.
    """
    copied = copy_graph(gm)
    for call in calls_of(copied.graph, *_PLAIN):
        _keep(call)
    for call in calls_of(copied.graph, *_READERS):
        call.meta.pop("backend", None)
    for call in calls_of(copied.graph, *_ATTENTIONS):
        _keep_cached(call)
    return copied


def _keep(call: Node) -> None:
    graph, given = call.graph, list(arguments(call).values())
    plain = _PLAIN[call.target]  # type: ignore[index]
    with graph.inserting_before(call):
        source: Node = given[0] if plain is None else insert_call(graph, plain.overload, given[:-_QUANTIZING])
        results = [source]
        if plain is ops.add_rms_norm:
            normed, total = (insert_call(graph, operator.getitem, (source, index)) for index in range(2))
            results = [total, normed]
        results.append(_ones(results[-1], group=given[-2], is_static=given[-1] is not None))
    for part in list(call.users):
        for reader in list(part.users):
            if is_call(reader, *_READERS) and reader.args[1] is given[-1]:
                reader.update_arg(1, results[-1])  # passes give readers a static scale without a detour
        part.replace_all_uses_with(results[part.args[1]])  # type: ignore[index]
        graph.erase_node(part)
    graph.erase_node(call)


def _ones(x: Node, *, group: int, is_static: bool) -> Node:
    """A scale of one, in the shape that quantizing x would give."""
    graph = x.graph
    if is_static:
        return insert_call(graph, aten.new_ones.default, (x, []), {"dtype": torch.float32})
    count = int(value(x).shape[-1]) // group if group else 1
    like = insert_call(graph, aten.slice.Tensor, (x, -1, 0, count))
    return insert_call(graph, aten.ones_like.default, (like,), {"dtype": torch.float32})


def _keep_cached(attention: Node) -> None:
    """Cache keys and values in the dtype that they come in."""
    named = arguments(attention)
    if value(named["key_pages"]).dtype == value(named["k"]).dtype:
        return
    for kind in ("key", "value"):
        pages = value(named[f"{kind}_pages"])
        named[f"{kind}_pages"].meta["val"] = pages.new_empty(pages.shape, dtype=value(named[kind[0]]).dtype)
        named[f"{kind}_scale"] = None
    attention.args, attention.kwargs = tuple(named.values()), {}
    attention.meta.pop("backend", None)

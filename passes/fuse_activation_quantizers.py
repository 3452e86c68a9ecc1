"""Activations quantized where they are made."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import Target, arguments, calls_of, insert_call, is_call, value
from autodeploy.graph.origin import inherit_origin
from autodeploy.ops import CanonicalOp, add_rms_norm_quantize, gated_activation_quantize, rms_norm_quantize
from autodeploy.passes.heads import find_head, quantizer_of
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss
from autodeploy.rewrite.apply import erase_unused

ops = torch.ops.autodeploy
_FUSED: Mapping[Target, CanonicalOp] = MappingProxyType(
    {
        ops.rms_norm.default: rms_norm_quantize,
        ops.add_rms_norm.default: add_rms_norm_quantize,
        ops.gated_activation.default: gated_activation_quantize,
    }
)


class FuseActivationQuantizers(Pass):
    """Quantize on the way out of a norm or a gate what nothing else reads, where the device has a kernel for it.

    What the head reads stays apart: rows of it will be selected.
    """

    name: ClassVar[str] = "fuse_activation_quantizers"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    exact: ClassVar[bool] = False  # a kernel need not round what it quantizes to 16 bits first
    tolerance: ClassVar[float] = 1e-2  # another rounding moves a few of the numbers by one step

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Fuse each call of `quantize` with what makes its input."""
        head = find_head(gm.graph)
        apart = quantizer_of(head) if head is not None else None
        changed = 0
        for call in calls_of(gm.graph, ops.quantize.default):
            maker = _maker(call)
            if call is apart or maker is None:
                continue
            reason = _why_apart(call, maker, ctx)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, call, maker, reason))
            elif ctx.spend():
                _fuse(call, maker)
                changed += 1
        return changed


def _maker(call: Node) -> Node | None:
    """The norm or gate that makes what a call quantizes."""
    source = call.args[0]
    if is_call(source, operator.getitem) and source.args[1] == 0:
        source = source.args[0]
    return source if is_call(source, *_FUSED) else None


def _why_apart(call: Node, maker: Node, ctx: Context) -> str | None:
    source = call.args[0]
    assert isinstance(source, Node)
    if len(source.users) > 1:
        return f"something else reads {source.name}"
    fused = _FUSED[maker.target]  # type: ignore[index]
    first = value(source).dtype if fused is add_rms_norm_quantize else call.meta["val"][0].dtype
    return ctx.why_unserved(fused.overload, first)


def _fuse(call: Node, maker: Node) -> None:
    """Give values and scale, and before them the sum where there is one, from one call in the place of `maker`."""
    graph, quantizing = call.graph, arguments(call)
    if quantizing["scale"] is not None:
        maker.prepend(quantizing["scale"])
    with graph.inserting_before(maker):
        given = (*arguments(maker).values(), *(quantizing[name] for name in ("format", "group", "scale")))
        fused = insert_call(graph, _FUSED[maker.target].overload, given)  # type: ignore[index]
        inherit_origin(fused, maker)
        *sums, values, scale = (
            insert_call(graph, operator.getitem, (fused, index)) for index in range(len(fused.meta["val"]))
        )
    source = call.args[0]
    _give(call, [values, scale])
    if sums:
        _give(maker, [source, *sums])


def _give(call: Node, results: Sequence[Any]) -> None:
    """Let `results` take the place of the results of `call`, where they are others."""
    for part in list(call.users):
        result = results[part.args[1]]  # type: ignore[index]
        if part is not result:
            part.replace_all_uses_with(result)
            erase_unused(part)

"""Convolutions to the canonical operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import arguments, calls_of, insert_call, value
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss

aten = torch.ops.aten
convolution_op = torch.ops.autodeploy.convolution.default
_FORMS = (
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
    aten.convolution.default,
)


class CanonicalizeConvolutions(Pass):
    """Replace every convolution that pads both ends alike, and is not transposed, by `convolution`."""

    name: ClassVar[str] = "canonicalize_convolutions"
    stage: ClassVar[Stage] = Stage.CANONICALIZE

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Translate the arguments of each call; those that cannot be are left, with the reason."""
        changed = 0
        for node in calls_of(gm.graph, *_FORMS):
            reason = _declines(node)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, node, node, reason))
            elif ctx.spend():
                with gm.graph.inserting_before(node):
                    node.replace_all_uses_with(insert_call(gm.graph, convolution_op, _translated(node)))
                gm.graph.erase_node(node)
                changed += 1
        return changed


def _declines(node: Node) -> str | None:
    named = arguments(node)
    if named.get("transposed"):
        return "the convolution is transposed"
    if value(node.args[0]).dim() != _weight(node).dim():  # type: ignore[arg-type]
        return "the input has no batch dimension"
    if named["padding"] == "same" and any(total % 2 for total in _reach(node, named)):
        return "an even kernel pads one end more than the other"
    return None


def _translated(node: Node) -> tuple[Any, ...]:
    """The arguments of the canonical operator."""
    named = arguments(node)
    padding = named["padding"]
    if padding == "valid":
        padding = [0] * (_weight(node).dim() - 2)
    elif padding == "same":
        padding = [total // 2 for total in _reach(node, named)]
    sizes = [_for_each(named[name], _weight(node).dim() - 2) for name in ("stride", "dilation")]
    return (*node.args[:2], named["bias"], sizes[0], list(padding), sizes[1], named["groups"])


def _for_each(sizes: Sequence[int], count: int) -> list[int]:
    return list(sizes) * (count if len(sizes) == 1 else 1)


def _reach(node: Node, named: dict[str, Any]) -> list[int]:
    """How far a kernel reaches past the element it is centred on, both ways together."""
    kernel = _weight(node).shape[2:]
    dilation = _for_each(named["dilation"], len(kernel))
    return [one * (int(size) - 1) for one, size in zip(dilation, kernel, strict=True)]


def _weight(node: Node) -> torch.Tensor:
    weight = node.args[1]
    assert isinstance(weight, Node)
    return value(weight)

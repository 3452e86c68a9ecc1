"""Settle early how each projection will be quantized, so that only equals are joined."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import torch
from pydantic import Field, field_validator
from torch.fx import GraphModule, Node

from autodeploy.errors import nearest
from autodeploy.graph.nodes import calls_of, value
from autodeploy.passes.heads import find_head
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.quantization import SCHEMES, Precision, Projection, Rule, decide, name_of
from autodeploy.quantization.marks import mark
from autodeploy.weights import stored

ops = torch.ops.autodeploy


class MarkPrecision(Pass):
    """Write into each projection's weight which scheme it gets: of the first rule that matches, or else `scheme`.

    The head gets `head` unless a rule names it; an embedding that it shares its weight with keeps its own. A weight
    that the checkpoint stores quantized stays as it is stored, whatever the rules say: rounding twice would lose more.
    """

    name: ClassVar[str] = "mark_precision"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = True
    scheme: str = "none"
    head: str = "none"
    rules: tuple[Rule, ...] = Field(default=())

    @field_validator("scheme", "head")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in SCHEMES:
            raise ValueError(f"there is no scheme {name!r}; {nearest(name, SCHEMES)}")
        return name

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Mark every projection whose weight is one, and tell what became of which."""
        marks: list[tuple[str, Precision]] = []
        head = _head(gm, ctx)
        for call in calls_of(gm.graph, ops.linear.default):
            weight = call.args[1]
            if not isinstance(weight, Node) or weight.op != "get_attr":
                continue
            name = str(weight.target).rpartition(".")[0]
            precision = self._decide(name, weight, ctx, is_head=call is head)
            if precision.scheme.is_quantized and not ctx.spend():
                break
            mark(weight, precision)
            marks.append((name, precision))
        asked = self.rules or {self.scheme, self.head} != {"none"}
        if asked or any(precision.scheme.is_quantized for _, precision in marks):
            ctx.notes += _told(marks, gm)
        return sum(precision.scheme.is_quantized for _, precision in marks)

    def _decide(self, name: str, weight: Node, ctx: Context, *, is_head: bool) -> Precision:
        found = stored(ctx.weights[str(weight.target)])
        if found is not None:
            return Precision(found.scheme, "stored so by the checkpoint")
        rows, columns = value(weight).shape
        projection = Projection(name, (rows, columns), "head" if is_head else "linear")
        return decide(projection, self.rules, self.scheme, self.head)


def _head(gm: GraphModule, ctx: Context) -> Node | None:
    """The projection to the vocabulary, which a module that is no language model lacks."""
    head = find_head(gm.graph)
    vocab_size = getattr(ctx.config.get_text_config(), "vocab_size", None)
    return head if head is not None and int(value(head).shape[-1]) == vocab_size else None


def _told(marks: list[tuple[str, Precision]], gm: GraphModule) -> list[str]:
    """How many projections got which scheme, and why; which they are where it is not what most got."""
    counts = Counter((name_of(precision.scheme), precision.reason) for _, precision in marks)
    told = []
    for (scheme, reason), count in counts.most_common():
        names = (_folded(name) for name, found in marks if (name_of(found.scheme), found.reason) == (scheme, reason))
        told.append(f"{scheme}: {count} projections ({', '.join(dict.fromkeys(names))}), {reason}")
    experts = len(calls_of(gm.graph, ops.expert_linear.default))
    return [*told, *([f"none: {experts} projections of experts, which no scheme quantizes"] if experts else [])]


def _folded(name: str) -> str:
    """A path with its numbers as stars, so that layers alike are told once."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))

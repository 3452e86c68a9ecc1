"""Projections by quantized weights, as `mark_precision` has settled."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from typing_extensions import override

from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import arguments, calls_of, insert_call, value
from autodeploy.graph.origin import inherit_origin
from autodeploy.passes.rounded_inputs import rounded
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.quantization import Scheme
from autodeploy.quantization.marks import scheme_of
from autodeploy.rewrite.apply import erase_unused
from autodeploy.weights import Cast, Dequantized, Expression, Quantized, stored

aten = torch.ops.aten
ops = torch.ops.autodeploy
PARTS = ("values", "scale", "zero", "global_scale")
_WIDE = ("int8", "int4", "fp8")
"""The formats with floating scales: in the inputs' dtype or in float32, which holds those of any other."""


class QuantizeLinears(Pass):
    """Replace each marked projection by one of a quantized weight and, where its scheme says so, quantized inputs.

    Weights are rounded to the nearest as they are read; those that the checkpoint stores quantized are taken as they
    are. An activation that a projection applied becomes a call of its own.
    """

    name: ClassVar[str] = "quantize_linears"
    stage: ClassVar[Stage] = Stage.QUANTIZE
    exact: ClassVar[bool] = False  # weights, and inputs if its scheme says so, are rounded
    lossy: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Quantize every projection; those of one input share its quantized form."""
        changed = 0
        quantized: dict[tuple[object, ...], Node] = {}
        for call in calls_of(gm.graph, ops.linear.default, ops.linear_activation.default):
            scheme = scheme_of(call.args[1])
            if not scheme.is_quantized or not ctx.spend():
                continue
            with gm.graph.inserting_before(call):
                parts = _Weight(gm, ctx, call.args[1], scheme)  # type: ignore[arg-type]
                result = parts.project(call, quantized)
                if call.target is ops.linear_activation.default:
                    result = insert_call(gm.graph, ops.activate.default, (result, arguments(call)["kind"]))
            inherit_origin(result, call)
            call.replace_all_uses_with(result)
            erase_unused(call)
            changed += 1
        return changed

    @override
    def simulate(self, gm: GraphModule, ctx: Context) -> None:
        """Round the weights and the inputs of the plain projections."""
        for call in calls_of(gm.graph, ops.linear.default, ops.linear_activation.default):
            scheme = scheme_of(call.args[1])
            if scheme.is_quantized:
                _round(gm, ctx, call, scheme)


def _round(gm: GraphModule, ctx: Context, call: Node, scheme: Scheme) -> None:
    """Let a plain projection read its weight as `scheme` stores it, and its input as it quantizes that."""
    weight = call.args[1]
    assert isinstance(weight, Node)
    name = f"{weight.target}_rounded"
    whole = ctx.weights[str(weight.target)]
    found = stored(whole) or _stored_as(whole, scheme)
    ctx.weights[name] = found
    with gm.graph.inserting_before(call):
        call.replace_input_with(weight, insert_weight(gm, name, value(weight)))
        if scheme.activations != "none":
            static = None
            if found.input_scale is not None:
                ctx.weights[f"{name}_input"] = found.input_scale
                static = insert_weight(gm, f"{name}_input", value(weight).new_empty((), dtype=torch.float32))
            x = call.args[0]
            assert isinstance(x, Node)
            ctx.weights[name], given = replace(found, factor=None, order=None), _Inputs(gm, ctx, name, found)
            call.replace_input_with(x, rounded(given.prepare(x), scheme.weights, scheme.activation_group, static))


def _stored_as(whole: Expression, scheme: Scheme) -> Dequantized:
    parts = Quantized.parts(whole, scheme)
    values, scale = parts["values"], parts["scale"]
    return Dequantized(values, scale, parts.get("zero"), parts.get("global_scale"), scheme.weights, whole.dtype)


class _Inputs:
    """What is done to the inputs of a stored weight before they are quantized: see `Dequantized`."""

    def __init__(self, gm: GraphModule, ctx: Context, name: str, found: Dequantized | None) -> None:
        self._gm, self._ctx, self._name = gm, ctx, name
        self._factor = None if found is None else found.factor
        self._order = None if found is None else found.order

    def prepare(self, x: Node) -> Node:
        """`x [..., K]` times the factor, and in the order of the stored columns, at the graph's insertion point."""
        graph, like = x.graph, value(x)
        if self._factor is not None:
            factor = self._insert("factor", Cast(self._factor, like.dtype), like)
            x = insert_call(graph, aten.mul.Tensor, (x, factor))
        if self._order is not None:
            x = insert_call(graph, aten.index_select.default, (x, -1, self._insert("order", self._order, like)))
        return x

    def _insert(self, part: str, expression: Expression, like: Tensor) -> Node:
        name = f"{self._name}_{part}"
        self._ctx.weights[name] = expression
        return insert_weight(self._gm, name, like.new_empty(expression.shape, dtype=expression.dtype))


class _Weight:
    """The parts of one weight, as weights of the plan."""

    def __init__(self, gm: GraphModule, ctx: Context, weight: Node, scheme: Scheme) -> None:
        self._gm, self._ctx, self._scheme = gm, ctx, scheme
        self._name = str(weight.target)
        self._like = value(weight)
        whole = ctx.weights[self._name]
        self._stored = stored(whole)
        self._inputs = _Inputs(gm, ctx, self._name, self._stored)
        parts = Quantized.parts(whole, scheme) if self._stored is None else _parts(self._stored)
        self._parts = {part: self._insert(part, one) for part, one in parts.items()}

    def _insert(self, part: str, expression: Expression) -> Node:
        name = f"{self._name}_{part}"
        self._ctx.weights[name] = expression
        return insert_weight(self._gm, name, self._like.new_empty(expression.shape, dtype=expression.dtype))

    def project(self, call: Node, quantized: dict[tuple[object, ...], Node]) -> Node:
        """The projection of the call's input; `quantized` holds the inputs that others have quantized."""
        graph, named = call.graph, arguments(call)
        x, bias = self._inputs.prepare(named["x"]), named["bias"]
        if self._scheme.activations == "none":
            weight = [self._parts.get(part) for part in PARTS]
            return insert_call(graph, ops.packed_linear.default, (x, *weight, bias, self._scheme.weights))
        static = self._static_scale()
        given = (x, self._scheme.weights, self._scheme.activation_group, static)
        if given not in quantized:
            quantized[given] = insert_call(graph, ops.quantize.default, given)
        values, found = (insert_call(graph, operator.getitem, (quantized[given], index)) for index in range(2))
        weight = [self._parts["values"], self._parts["scale"]]
        scale = found if static is None else static
        return insert_call(graph, ops.scaled_linear.default, (values, scale, *weight, bias, value(call).dtype))

    def _static_scale(self) -> Node | None:
        if self._stored is None or self._stored.input_scale is None:
            return None
        return self._insert("input_scale", self._stored.input_scale)


def _parts(found: Dequantized) -> dict[str, Expression]:
    """The parts of a stored weight, its scales in a dtype that kernels read."""
    parts = {part: one for part, one in zip(PARTS, found.parts, strict=True) if one is not None}
    if found.format in _WIDE and found.scale.dtype not in (found.to, torch.float32):
        parts["scale"] = Cast(found.scale, torch.float32)
    return parts

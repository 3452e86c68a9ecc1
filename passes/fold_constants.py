"""Compute beforehand what depends on no input."""

from __future__ import annotations

import operator
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate, map_arg

from autodeploy.graph.aliases import is_pure, written
from autodeploy.graph.attributes import get_attribute
from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import value
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite.apply import erase_unused
from autodeploy.weights import Constant

_CPU = torch.device("cpu")


class FoldConstants(Pass):
    """Replace calls whose arguments are all known by a constant of the plan.

    Known are numbers and the tensors that the model's code computed; parameters are not, since a checkpoint changes
    them. Values are computed on the CPU; a call with a result of more than `max_bytes` is left as it is.
    """

    name: ClassVar[str] = "fold_constants"
    stage: ClassVar[Stage] = Stage.CLEAN
    exact: ClassVar[bool] = False  # another device may round a power or a cosine otherwise
    tolerance: ClassVar[float] = 1e-6
    cleanup: ClassVar[bool] = True
    max_bytes: int = Field(default=1 << 20, ge=0)

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Compute in graph order; a result becomes a constant where something unknown reads it."""
        known, kept = _constants(gm, ctx), written(gm.graph)
        for node in gm.graph.nodes:
            if node not in kept and _is_computable(node, self.max_bytes) and set(node.all_input_nodes) <= known.keys():
                known[node] = _compute(node, known)
        changed = 0
        for node in [one for one in known if one.op != "get_attr" and isinstance(known[one], Tensor)]:
            if known.keys() >= node.users.keys():
                continue
            if not ctx.spend():
                break
            _replace(gm, ctx, node, known[node])
            changed += 1
        return changed


def _constants(gm: GraphModule, ctx: Context) -> dict[Node, Any]:
    """The weights whose values are known, and are no parameters."""
    known: dict[Node, Any] = {}
    for node in gm.graph.find_nodes(op="get_attr"):
        weight = ctx.weights.get(node.target)
        is_parameter = isinstance(get_attribute(gm, node.target), nn.Parameter)
        if isinstance(weight, Constant) and not is_parameter and not weight.tensor.is_meta:
            known[node] = weight.tensor
    return known


def _is_computable(node: Node, max_bytes: int) -> bool:
    """Whether a call gives the same each time, and small tensors of fixed shapes."""
    if node.op != "call_function" or not is_pure(node):
        return False
    if not isinstance(node.target, torch._ops.OpOverload) and node.target is not operator.getitem:
        return False
    results = node.meta.get("val")
    results = results if isinstance(results, (list, tuple)) else [results]
    if not all(isinstance(one, Tensor) and all(isinstance(size, int) for size in one.shape) for one in results):
        return False
    return bool(sum(one.numel() * one.element_size() for one in results) <= max_bytes)


def _compute(node: Node, known: dict[Node, Any]) -> Any:
    args, kwargs = map_arg((node.args, node.kwargs), lambda argument: known[argument])
    args, kwargs = map_aggregate((args, kwargs), lambda given: _CPU if isinstance(given, torch.device) else given)
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _replace(gm: GraphModule, ctx: Context, node: Node, result: Tensor) -> None:
    name = f"folded.{node.name}" + "_" * hasattr(nn.Module, node.name)  # a module's methods keep their names
    ctx.weights.add_constant(name, result.clone(memory_format=torch.contiguous_format))
    with gm.graph.inserting_before(node):
        constant = insert_weight(gm, name, value(node).new_empty(tuple(result.shape)))
    node.replace_all_uses_with(constant)
    erase_unused(node)

"""What every graph must satisfy between passes; a violation names the pass and the node."""

from __future__ import annotations

import operator
from collections.abc import Set

import torch
from torch.fx import GraphModule, Node

from autodeploy.errors import InvariantError
from autodeploy.weights import WeightPlan, used_by

# Forms that CLEAN rewrites into another operator: passes and patterns after it need not know them.
_NOT_CLEAN = frozenset(
    {
        torch.ops.aten.alias.default,
        torch.ops.aten.detach.default,
        torch.ops.aten._assert_tensor_metadata.default,
        torch.ops.aten._to_copy.default,
        torch.ops.aten.to.device,
        torch.ops.aten.to.dtype_layout,
        torch.ops.aten.type_as.default,
        torch.ops.aten.view.default,
        torch.ops.aten.dropout.default,
    }
)
# Forms that CANONICALIZE replaces wherever they occur, in every model.
_NOT_CANONICAL = frozenset(
    {
        torch.ops.aten.linear.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.layer_norm.default,
        torch.ops.aten.rms_norm.default,
        torch.ops.aten.scaled_dot_product_attention.default,
    }
)
_BUILTINS = frozenset({
    operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.neg,
    operator.eq, operator.ge, operator.gt, operator.le, operator.lt, operator.ne, operator.mod,
    torch.sym_max, torch.sym_min,
})  # fmt: skip


def check_invariants(
    gm: GraphModule, weights: WeightPlan, after: str, *, clean: bool = True, canonical: bool = True
) -> None:
    """Raise InvariantError naming the pass `after` when the graph is not what its stage promises.

    Holds that the graph is well formed, free of dead code, typed (every node has a fake value), within the vocabulary
    of its stage (`clean`: what CLEAN removes is gone; `canonical`: what CANONICALIZE replaces is too), and that the
    weights it reads are those of the plan, with the same shapes and dtypes.
    """
    forbidden = (_NOT_CLEAN if clean else frozenset()) | (_NOT_CANONICAL if canonical else frozenset())
    gm.graph.lint()
    for node in gm.graph.nodes:
        _check_node(node, after, forbidden)
    _check_weights(gm, weights, after)


def _check_node(node: Node, after: str, forbidden: Set[object]) -> None:
    if node.op == "output":
        return
    if node.op in ("call_module", "call_method"):
        raise InvariantError(f"after {after}: {node.name} is a {node.op}; graphs hold operator calls only")
    if "val" not in node.meta:
        raise InvariantError(f"after {after}: {node.name} has no shape and dtype")
    if not node.users and node.op != "placeholder" and not node.is_impure():
        raise InvariantError(f"after {after}: {node.name} is dead code")
    if node.op == "call_function":
        _check_target(node, after, forbidden)


def _check_target(node: Node, after: str, forbidden: Set[object]) -> None:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        if target not in _BUILTINS:
            raise InvariantError(f"after {after}: {node.name} calls {target}, which is no operator")
        return
    if target in forbidden:
        raise InvariantError(f"after {after}: {node.name} still calls {target}")


def _check_weights(gm: GraphModule, weights: WeightPlan, after: str) -> None:
    used = set(used_by(gm))
    unaccounted = used.symmetric_difference(weights)
    if unaccounted:
        raise InvariantError(f"after {after}: weight {min(unaccounted)!r} is not both in the graph and in the plan")
    for node in gm.graph.find_nodes(op="get_attr"):
        value, plan = node.meta["val"], weights[str(node.target)]
        if tuple(value.shape) != plan.shape or value.dtype != plan.dtype:
            raise InvariantError(
                f"after {after}: weight {node.target!r} is {tuple(value.shape)} {value.dtype} in the graph,"
                f" {plan.shape} {plan.dtype} in the plan"
            )

"""Projections as models write them."""

from __future__ import annotations

import torch
from torch.fx import Node

from autodeploy.graph.nodes import value
from autodeploy.rewrite import AnyOf, Call, Expr, Match, Rule, rewrite

aten = torch.ops.aten
linear_op = torch.ops.autodeploy.linear.default


def is_matrix(match: Match) -> str | None:
    """Decline a product with anything but a matrix of the model's, such as that of queries and keys."""
    if not isinstance(match.weight, Node) or match.weight.op != "get_attr":
        return f"{match.weight} is no weight"
    rank = value(match.weight).dim()
    return None if rank == 2 else f"{match.weight} has {rank} dimensions, and so is no weight of a projection"


def is_bias(match: Match) -> str | None:
    """Decline a sum with anything but one number for each output, of the same dtype."""
    if not isinstance(match.bias, Node):
        return f"{match.bias} is a number"
    root, bias = value(match.root), value(match.bias)
    if bias.dim() != 1 or str(bias.shape[0]) != str(value(match.weight).shape[0]):
        return f"{match.bias} {tuple(bias.shape)} is not one number for each output"
    return None if bias.dtype == root.dtype == value(match.x).dtype else "the bias is of another dtype"


@rewrite(linear_op)
def linear(x: Expr, weight: Expr, bias: Expr) -> Expr:
    """PyTorch's own `linear`, with or without a bias."""
    return Call(aten.linear.default, (x, weight, bias))


def _without_bias(x: Expr, weight: Expr) -> Expr:
    return Call(linear_op, (x, weight, None))


@rewrite(_without_bias, where=is_matrix)
def linear_by_matmul(x: Expr, weight: Expr) -> Expr:
    """A product with a transposed weight (Falcon)."""
    turned = (
        Call(aten.t.default, (weight,)),
        Call(aten.transpose.int, (weight, 0, 1)),
        Call(aten.transpose.int, (weight, -2, -1)),
        Call(aten.transpose.int, (weight, -1, -2)),
        Call(aten.numpy_T.default, (weight,)),
    )
    return Call(aten.matmul.default, (x, AnyOf(turned)))


@rewrite(linear_op, where=is_bias)
def linear_with_bias(x: Expr, weight: Expr, bias: Expr) -> Expr:
    """A projection to whose result the bias is added (Falcon)."""
    return Call(linear_op, (x, weight, None)) + bias


@rewrite(torch.ops.autodeploy.linear_activation.default)
def linear_activation(x: Expr, weight: Expr, bias: Expr, kind: Expr) -> Expr:
    """A projection and the activation that alone reads it (GPT-2, OPT, Phi, Nemotron)."""
    projection = Call(linear_op, (x, weight, bias))
    return Call(torch.ops.autodeploy.activate.default, (projection, kind))


LINEARS: tuple[Rule, ...] = (linear, linear_by_matmul)

BIASES: tuple[Rule, ...] = (linear_with_bias,)
"""Built on the result of `LINEARS`."""

ACTIVATED: tuple[Rule, ...] = (linear_activation,)
"""Built on the results of the projections and of the activations."""

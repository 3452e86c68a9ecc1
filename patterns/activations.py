"""Activations as models write them, and their gated products."""

from __future__ import annotations

import math

import torch

from autodeploy.graph.nodes import value
from autodeploy.rewrite import AnyOf, Call, Expr, Match, Rule, rewrite

aten = torch.ops.aten
activate_op = torch.ops.autodeploy.activate.default
gated_op = torch.ops.autodeploy.gated_activation.default


def same_shape(match: Match) -> str | None:
    """Decline a product that broadcasts, and so is a scale and no gate."""
    if not (isinstance(match.gate, torch.fx.Node) and isinstance(match.up, torch.fx.Node)):
        return "a gate multiplies a tensor, not a number"
    gate, up = value(match.gate), value(match.up)
    if str(gate.shape) != str(up.shape) or gate.dtype != up.dtype:
        return f"gate {tuple(gate.shape)} and up {tuple(up.shape)} differ in shape or dtype"
    return None


@rewrite(activate_op, kind="silu")
def silu(x: Expr) -> Expr:
    """`x * sigmoid(x)` (Elfwing et al., 2017)."""
    return AnyOf((Call(aten.silu.default, (x,)), x * Call(aten.sigmoid.default, (x,))))


@rewrite(activate_op, kind="gelu")
def gelu(x: Expr) -> Expr:
    """The exact Gaussian error linear unit (Hendrycks and Gimpel, 2016)."""
    return AnyOf(
        (
            Call(aten.gelu.default, (x,)),
            x * 0.5 * (Call(aten.erf.default, (x / math.sqrt(2.0),)) + 1.0),
        )
    )


@rewrite(activate_op, kind="gelu_tanh")
def gelu_tanh(x: Expr) -> Expr:
    """The tanh approximation of GELU, by PyTorch or written out (GPT-2)."""
    cubic = x + Call(aten.pow.Tensor_Scalar, (x, 3.0)) * 0.044715
    by_hand = (x * 0.5) * (Call(aten.tanh.default, (cubic * math.sqrt(2.0 / math.pi),)) + 1.0)
    return AnyOf((Call(aten.gelu.default, (x, "tanh")), by_hand))


@rewrite(activate_op, kind="gelu_quick")
def gelu_quick(x: Expr) -> Expr:
    """The sigmoid approximation of GELU."""
    return x * Call(aten.sigmoid.default, (x * 1.702,))


@rewrite(activate_op, kind="relu_squared")
def relu_squared(x: Expr) -> Expr:
    """The square of ReLU (So et al., 2021)."""
    relu = AnyOf((Call(aten.relu.default, (x,)), Call(activate_op, (x, "relu"))))
    return AnyOf((Call(aten.pow.Tensor_Scalar, (relu, 2)), Call(aten.square.default, (relu,))))


@rewrite(activate_op, kind="relu")
def relu(x: Expr) -> Expr:
    """The positive part."""
    return Call(aten.relu.default, (x,))


@rewrite(gated_op, where=same_shape)
def gated_activation(gate: Expr, up: Expr, kind: Expr) -> Expr:
    """An activation that multiplies another projection of the same input (Shazeer, 2020)."""
    return Call(activate_op, (gate, kind)) * up


ACTIVATIONS: tuple[Rule, ...] = (gelu_tanh, gelu_quick, gelu, silu, relu_squared, relu)
"""Each names its kind; a form that contains another comes first."""

GATED: tuple[Rule, ...] = (gated_activation,)
"""Built on the result of `ACTIVATIONS`."""

"""Activations as models write them, and their gated products."""

from __future__ import annotations

import math

import torch

from autodeploy.graph.nodes import value
from autodeploy.rewrite import AnyOf, Call, Expr, Match, Rule, rewrite
from autodeploy.rewrite.expression import getitem

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


def differs(match: Match) -> str | None:
    """Decline a sigmoid that multiplies its own input, which is a SiLU, and one that only scales."""
    return "the gate multiplies itself" if match.gate is match.up else same_shape(match)


def is_of_last(match: Match) -> str | None:
    """Decline a gate that is not half of the last dimension."""
    x = value(match.x)
    return None if match.dim % x.dim() == x.dim() - 1 else f"the halves are of dimension {match.dim}, not of the last"


def _half_of(x: Expr, one_more: Expr) -> AnyOf:
    """`x * 0.5 * one_more` in any order."""
    return AnyOf(((x * 0.5) * one_more, (x * one_more) * 0.5, x * (one_more * 0.5)))


@rewrite(activate_op, kind="silu")
def silu(x: Expr) -> Expr:
    """`x * sigmoid(x)` (Elfwing et al., 2017; Llama)."""
    return AnyOf((Call(aten.silu.default, (x,)), x * Call(aten.sigmoid.default, (x,))))


@rewrite(activate_op, kind="gelu")
def gelu(x: Expr) -> Expr:
    """The exact Gaussian error linear unit, by PyTorch or written out (Hendrycks and Gimpel, 2016; GPT-NeoX, BERT)."""
    scaled = AnyOf((x / math.sqrt(2.0), x * (1.0 / math.sqrt(2.0))))
    return AnyOf((Call(aten.gelu.default, (x,)), _half_of(x, Call(aten.erf.default, (scaled,)) + 1.0)))


def _times_root(x: Expr) -> AnyOf:
    """x times the square root of 2 / pi, to as many digits as models write."""
    return AnyOf(tuple(x * root for root in (math.sqrt(2.0 / math.pi), 0.7978845608, 0.79788456)))


@rewrite(activate_op, kind="gelu_tanh")
def gelu_tanh(x: Expr) -> Expr:
    """The tanh approximation of GELU, by PyTorch or written out (GPT-2, GPT-J, BLOOM)."""
    cube = AnyOf((Call(aten.pow.Tensor_Scalar, (x, 3.0)), (x * x) * x))
    factor = AnyOf((((x * 0.044715) * x) + 1.0, (x * x) * 0.044715 + 1.0))
    angle = AnyOf((_times_root(x + cube * 0.044715), _times_root(x) * factor, _times_root(x * factor)))
    by_hand = _half_of(x, Call(aten.tanh.default, (angle,)) + 1.0)
    return AnyOf((Call(aten.gelu.default, (x, "tanh")), by_hand))


@rewrite(activate_op, kind="gelu_quick")
def gelu_quick(x: Expr) -> Expr:
    """The sigmoid approximation of GELU (Hendrycks and Gimpel, 2016; CLIP)."""
    return x * Call(aten.sigmoid.default, (x * 1.702,))


@rewrite(activate_op, kind="relu_squared")
def relu_squared(x: Expr) -> Expr:
    """The square of ReLU (So et al., 2021; Nemotron, Arcee, nanochat)."""
    relu = AnyOf((Call(aten.relu.default, (x,)), Call(activate_op, (x, "relu"))))
    return AnyOf((Call(aten.pow.Tensor_Scalar, (relu, 2)), Call(aten.square.default, (relu,)), relu * relu))


@rewrite(activate_op, kind="relu")
def relu(x: Expr) -> Expr:
    """The positive part (OPT, T5)."""
    return Call(aten.relu.default, (x,))


@rewrite(gated_op, where=same_shape)
def gated_activation(gate: Expr, up: Expr, kind: Expr) -> Expr:
    """An activation that multiplies another projection of the same input (Shazeer, 2020; Llama, Gemma)."""
    return Call(activate_op, (gate, kind)) * up


@rewrite(gated_op, where=differs, kind="sigmoid")
def gated_sigmoid(gate: Expr, up: Expr) -> Expr:
    """A sigmoid that gates, which was no activation before (Dauphin et al., 2016; the attention of Qwen3-Next)."""
    return Call(aten.sigmoid.default, (gate,)) * up


def _halves_gated(x: Expr, dim: Expr) -> Expr:
    halves = Call(aten.chunk.default, (x, 2, dim))
    return Call(gated_op, (getitem(halves, 1), getitem(halves, 0), "sigmoid"))


@rewrite(_halves_gated, where=is_of_last)
def glu(x: Expr, dim: Expr) -> Expr:
    """PyTorch's own `glu`, whose second half gates the first (Dauphin et al., 2016; Conformers)."""
    return Call(aten.glu.default, (x, dim))


ACTIVATIONS: tuple[Rule, ...] = (gelu_tanh, gelu_quick, gelu, silu, relu_squared, relu)
"""Each names its kind; a form that contains another comes first."""

GATED: tuple[Rule, ...] = (gated_activation, gated_sigmoid, glu)
"""Built on the result of `ACTIVATIONS`."""

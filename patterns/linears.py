"""Projections as models write them."""

from __future__ import annotations

import torch

from autodeploy.rewrite import Call, Expr, Rule, rewrite

aten = torch.ops.aten


@rewrite(torch.ops.autodeploy.linear.default)
def linear(x: Expr, weight: Expr, bias: Expr) -> Expr:
    """PyTorch's own `linear`, with or without a bias."""
    return Call(aten.linear.default, (x, weight, bias))


@rewrite(torch.ops.autodeploy.linear_activation.default)
def linear_activation(x: Expr, weight: Expr, bias: Expr, kind: Expr) -> Expr:
    """A projection and the activation that alone reads it (GPT-2, OPT, Phi, Nemotron)."""
    projection = Call(torch.ops.autodeploy.linear.default, (x, weight, bias))
    return Call(torch.ops.autodeploy.activate.default, (projection, kind))


LINEARS: tuple[Rule, ...] = (linear,)

ACTIVATED: tuple[Rule, ...] = (linear_activation,)
"""Built on the results of `LINEARS` and of the activations."""

"""Projections as models write them."""

from __future__ import annotations

import torch

from autodeploy.rewrite import Call, Expr, Rule, rewrite

aten = torch.ops.aten


@rewrite(torch.ops.autodeploy.linear.default)
def linear(x: Expr, weight: Expr, bias: Expr) -> Expr:
    """PyTorch's own `linear`, with or without a bias."""
    return Call(aten.linear.default, (x, weight, bias))


LINEARS: tuple[Rule, ...] = (linear,)

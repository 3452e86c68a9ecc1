"""Convolutions and the activations that follow them."""

from __future__ import annotations

import torch

from autodeploy.rewrite import Call, Expr, Rule, rewrite

ops = torch.ops.autodeploy


@rewrite(ops.convolution_activation.default)
def convolution_activation(
    x: Expr, weight: Expr, bias: Expr, stride: Expr, padding: Expr, dilation: Expr, groups: Expr, kind: Expr
) -> Expr:
    """An activation of nothing but a convolution."""
    convolved = Call(ops.convolution.default, (x, weight, bias, stride, padding, dilation, groups))
    return Call(ops.activate.default, (convolved, kind))


CONVOLUTION_ACTIVATIONS: tuple[Rule, ...] = (convolution_activation,)
"""Built on canonical convolutions and activations."""

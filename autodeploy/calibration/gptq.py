"""Rounding one weight after the other, and letting those to come make up for it (Frantar et al., 2022, GPTQ)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from autodeploy.quantization import Parts, Scheme, pack_nibbles, round_weight
from autodeploy.quantization.formats import spread

DAMPING = 0.01
"""What is added to the Hessian's diagonal, as a part of its mean, so that it can be inverted."""
BLOCK = 128
"""The columns whose errors are passed on together to those after them."""


def hessian(inputs: Sequence[Tensor]) -> Tensor:
    """The second derivative of the squared error of a projection of `inputs [..., K]`, halved: `[K, K]` in float32."""
    width = inputs[0].shape[-1]
    total = torch.zeros(width, width, device=inputs[0].device)
    for one in inputs:
        rows = one.reshape(-1, width).float()
        total.addmm_(rows.T, rows)
    return total


def round_by(curvature: Tensor, weight: Tensor, scheme: Scheme) -> Parts:
    """Round `weight [N, K]` so that its product with the inputs of that `curvature [K, K]` changes little.

    `scheme` is int8 with a scale an output, or int4 in groups. Scales are those of `round_weight`, so that columns can
    go by the size of their inputs: the largest first, which all others then make up for.
    """
    wide = weight.masked_fill(curvature.diagonal() == 0, 0)  # what is never read
    parts = round_weight(wide, scheme)
    order = curvature.diagonal().argsort(descending=True)
    rest = wide.float()[:, order]
    step, middle = (one.expand_as(rest)[:, order] for one in _grid(parts, rest.shape, scheme))
    factor = _factor(curvature[order][:, order])
    codes = torch.empty_like(rest)
    low, high = (0, 15) if scheme.weights == "int4" else (-127, 127)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        errors = torch.zeros(len(rest), stop - start, device=rest.device)
        for column in range(start, stop):
            code = ((rest[:, column] / step[:, column]).round() + middle[:, column]).clamp(low, high)
            rounded = (code - middle[:, column]) * step[:, column]
            error = (rest[:, column] - rounded) / factor[column, column]
            rest[:, column:stop].addr_(error, factor[column, column:stop], alpha=-1)
            errors[:, column - start], codes[:, column] = error, code
        rest[:, stop:].addmm_(errors, factor[start:stop, stop:], alpha=-1)
    codes = codes[:, order.argsort()]
    return replace(parts, values=pack_nibbles(codes) if scheme.weights == "int4" else codes.to(torch.int8))


def _grid(parts: Parts, shape: torch.Size, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The scale, and the code of zero, of each of the numbers `[N, K]` or of a row of them, in float32."""
    step = spread(parts.scale.float(), shape, scheme.weights)
    if scheme.weights != "int4":
        return step, torch.zeros_like(step)
    return step, torch.full_like(step, 8) if parts.zero is None else spread(parts.zero.float(), shape, "int4")


def _factor(curvature: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse; its rows say how an error is best passed on."""
    damped = curvature.clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor

"""Rounding one weight after the other, and letting those to come make up for it (Frantar et al., 2022, GPTQ)."""

from __future__ import annotations

from collections.abc import Sequence

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

    `scheme` is int8 with a scale an output, or int4 in groups; a group's scale is found when its turn comes. Scales are
    in the dtype that `round_weight` gives them.
    """
    factor = _factor(curvature)
    rest = weight.float().clone()
    rest[:, curvature.diagonal() == 0] = 0.0  # what is never read
    group = scheme.group or weight.shape[1]
    codes = torch.empty_like(rest)
    found: list[Parts] = []
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        errors = torch.zeros(len(rest), stop - start, device=rest.device)
        for column in range(start, stop):
            if column % group == 0:
                found.append(_scales(rest, column, group, weight.dtype, scheme))
            codes[:, column], rounded = _nearest(rest[:, column], found[-1], scheme)
            error = (rest[:, column] - rounded) / factor[column, column]
            rest[:, column:stop].addr_(error, factor[column, column:stop], alpha=-1)
            errors[:, column - start] = error
        rest[:, stop:].addmm_(errors, factor[start:stop, stop:], alpha=-1)
    return _joined(codes, found, scheme)


def _factor(curvature: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse; its rows say how an error is best passed on."""
    damped = curvature.clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += DAMPING * diagonal.mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def _scales(rest: Tensor, column: int, group: int, dtype: torch.dtype, scheme: Scheme) -> Parts:
    return round_weight(rest[:, column : column + group].to(dtype), scheme)


def _nearest(column: Tensor, parts: Parts, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The codes of a column `[N]`, and what they stand for."""
    scale = spread(parts.scale.float(), (len(column), 1), scheme.weights)[:, 0]
    low, high, zero = -127, 127, torch.zeros_like(scale)
    if scheme.weights == "int4":
        low, high = 0, 15
        zero = zero + 8 if parts.zero is None else parts.zero[:, 0].float()
    codes = ((column / scale).round() + zero).clamp(low, high)
    return codes, (codes - zero) * scale


def _joined(codes: Tensor, found: Sequence[Parts], scheme: Scheme) -> Parts:
    values = pack_nibbles(codes) if scheme.weights == "int4" else codes.to(torch.int8)
    zeros = [one.zero for one in found if one.zero is not None]
    return Parts(values, torch.cat([one.scale for one in found], 1), torch.cat(zeros, 1) if zeros else None)

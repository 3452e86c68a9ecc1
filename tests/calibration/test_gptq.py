"""GPTQ next to its definition, column by column in float64, and to rounding to the nearest."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy.calibration.gptq import DAMPING, hessian, round_by
from autodeploy.quantization import SCHEMES, Parts, Scheme, dequantize, round_weight

NAMES = ("int4", "int4_g64", "int4_zeros_g32", "int8")


def sample(columns: int = 256) -> tuple[Tensor, list[Tensor]]:
    generator = torch.manual_seed(5)
    weight = torch.randn(24, columns, generator=generator)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    return weight, [torch.randn(2, 200, columns, generator=generator) @ mixing for _ in range(3)]


def read(parts: Parts, scheme: Scheme) -> Tensor:
    return dequantize(parts.values, parts.scale, parts.zero, parts.global_scale, scheme.weights)


def loss(weight: Tensor, rounded: Tensor, inputs: list[Tensor]) -> float:
    return float((torch.cat(inputs) @ (rounded - weight).T).square().mean())


@pytest.mark.parametrize("name", NAMES)
def test_outputs_change_less_than_by_rounding_to_the_nearest(name: str) -> None:
    (weight, inputs), scheme = sample(), SCHEMES[name]
    found = loss(weight, read(round_by(hessian(inputs), weight, scheme), scheme), inputs)
    assert found < 0.9 * loss(weight, read(round_weight(weight, scheme), scheme), inputs)


def test_it_is_the_definition() -> None:
    """The optimal update after each column, by the inverse of what is left of the Hessian (equation 2 of the paper).

    Columns go by the size of their inputs.
    """
    (weight, inputs), scheme = sample(160), SCHEMES["int8"]
    scale = round_weight(weight, scheme).scale.double()
    order = hessian(inputs).diagonal().argsort(descending=True)
    curvature = hessian(inputs).double()[order][:, order]
    curvature += DAMPING * curvature.diagonal().mean() * torch.eye(160)
    rest, expected = weight.double()[:, order], torch.empty_like(weight, dtype=torch.float64)
    for column in range(160):
        inverse = torch.linalg.inv(curvature[column:, column:])
        expected[:, column] = (rest[:, column] / scale[:, 0]).round().clamp(-127, 127) * scale[:, 0]
        error = (rest[:, column] - expected[:, column]) / inverse[0, 0]
        rest[:, column:] -= error[:, None] * inverse[0]
    found = read(round_by(hessian(inputs), weight, scheme), scheme)[:, order].double()
    assert float((found != expected.float().double()).double().mean()) < 0.01  # a tie in float32 may fall otherwise


def test_the_largest_inputs_come_first() -> None:
    """What rounds the columns with the largest inputs can still be made up for by all others."""
    (weight, inputs), scheme = sample(), SCHEMES["int4"]
    for one in inputs:
        one[..., -16:] *= 20
    turned = [one.flip(-1) for one in inputs]
    last = loss(weight, read(round_by(hessian(inputs), weight, scheme), scheme), inputs)
    first = loss(weight, read(round_by(hessian(turned), weight.flip(-1), scheme), scheme).flip(-1), inputs)
    assert last == pytest.approx(first, rel=0.1)


def test_inputs_that_are_always_zero() -> None:
    (weight, inputs), scheme = sample(), SCHEMES["int4_g64"]
    for one in inputs:
        one[..., 7] = 0.0
    found = read(round_by(hessian(inputs), weight, scheme), scheme)
    assert found.isfinite().all()
    assert loss(weight, found, inputs) < loss(weight, read(round_weight(weight, scheme), scheme), inputs)


def test_its_parts_are_laid_out_as_the_rounded_ones() -> None:
    (weight, inputs), scheme = sample(), SCHEMES["int4_zeros_g32"]
    found, plain = (round_by(hessian(inputs), weight, scheme), round_weight(weight, scheme))
    for part in ("values", "scale", "zero"):
        one, other = getattr(found, part), getattr(plain, part)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)

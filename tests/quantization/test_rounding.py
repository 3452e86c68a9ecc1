"""Rounding to each format: to the nearest number there is, scaled as the format's specification says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy.quantization import E2M1, SCHEMES, Scheme, dequantize, pack_nibbles, round_weight, unpack_nibbles
from autodeploy.quantization.nibbles import decode_e2m1, encode_e2m1

QUANTIZED = [name for name, scheme in SCHEMES.items() if scheme.is_quantized]
# What rounding normal numbers to the nearest costs, with room for the draw.
ERROR = {"fp8": 0.028, "int8": 0.009, "int4": 0.115, "nvfp4": 0.088, "mxfp4": 0.13}


def back(weight: Tensor, scheme: Scheme) -> Tensor:
    parts = round_weight(weight, scheme)
    return dequantize(parts.values, parts.scale, parts.zero, parts.global_scale, scheme.weights)


def error(weight: Tensor, scheme: Scheme) -> float:
    return float((back(weight, scheme) - weight.float()).norm() / weight.float().norm())


@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normal_numbers_lose_what_the_format_says(name: str, dtype: torch.dtype) -> None:
    weight = (torch.randn(140, 384) * 0.02).to(dtype)
    assert error(weight, SCHEMES[name]) < ERROR[SCHEMES[name].weights]


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_a_format_can_store_stays_as_it_is(name: str) -> None:
    scheme = SCHEMES[name]
    stored = back(torch.randn(140, 384), scheme)
    torch.testing.assert_close(back(stored, scheme), stored, rtol=2e-7, atol=0)


@pytest.mark.parametrize("name", QUANTIZED)
def test_zeros_stay_zeros(name: str) -> None:
    assert (back(torch.zeros(3, 128), SCHEMES[name]) == 0).all()


@pytest.mark.parametrize("name", [one for one in QUANTIZED if SCHEMES[one].scope in ("channel", "group", "block")])
def test_rows_far_apart_do_not_share_a_scale(name: str) -> None:
    weight = torch.randn(256, 128)
    weight[128:] *= 1000
    if name == "nvfp4":  # its scales share one factor, and hold four digits
        weight[128:] /= 10
    small = weight[:128]
    lost = (back(weight, SCHEMES[name])[:128] - small).norm() / small.norm()
    assert lost < ERROR[SCHEMES[name].weights] * 1.1


@pytest.mark.parametrize("name", [one for one in QUANTIZED if SCHEMES[one].scope in ("channel", "group", "block")])
def test_rows_can_be_rounded_by_themselves(name: str) -> None:
    weight, scheme = torch.randn(256, 128), SCHEMES[name]
    whole, amax = round_weight(weight, scheme), weight.abs().max()
    halves = [round_weight(half, scheme, amax) for half in weight.chunk(2)]
    assert torch.equal(whole.values.float(), torch.cat([half.values.float() for half in halves]))
    assert torch.equal(whole.scale.float(), torch.cat([half.scale.float() for half in halves]))


def test_int4_uses_all_of_its_codes() -> None:
    weight = torch.tensor([[-8.0, 7.0] * 16, [8.0, -7.0] * 16, [0.0, 15.0] * 16])
    symmetric, zeros = Scheme(weights="int4", scope="group", group=32), SCHEMES["int4_zeros_g32"]
    assert torch.equal(back(weight[:2], symmetric), weight[:2])
    assert torch.equal(back(weight, zeros), weight)
    assert round_weight(weight, zeros).zero.flatten().tolist() == [8, 7, 0]  # type: ignore[union-attr]


def test_e2m1_rounds_to_the_nearest_and_ties_to_the_even_code() -> None:
    x = torch.tensor([[0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, 0.26, -0.74, 100.0, -100.0, -5.1, 2.4, 0.0, -1.0]])
    near = [0, 1, 1, 2, 2, 4, 4, 0, 0.5, -0.5, 6, -6, -6, 2, 0, -1]
    assert decode_e2m1(encode_e2m1(x)).tolist() == [near]


def test_every_e2m1_is_itself() -> None:
    x = torch.tensor([[*E2M1, *(-one for one in E2M1)]])
    assert unpack_nibbles(encode_e2m1(x)).tolist() == [list(range(16))]


def test_nibbles_are_packed_low_first() -> None:
    assert pack_nibbles(torch.tensor([[1, 2, 15, 0]])).tolist() == [[0x21, 0x0F]]


def test_mxfp4_takes_the_exponent_of_the_largest() -> None:
    weight = torch.zeros(3, 32)
    weight[:, 0] = torch.tensor([4.0, 7.9, 8.0])
    parts = round_weight(weight, SCHEMES["mxfp4"])
    assert parts.scale.flatten().tolist() == [127, 127, 128]  # 4, 6 (as 7.9 saturates) and 4 times 2
    assert back(weight, SCHEMES["mxfp4"])[:, 0].tolist() == [4, 6, 8]


def test_nvfp4_brings_the_largest_scale_to_the_largest_e4m3() -> None:
    weight = torch.randn(8, 64)
    parts = round_weight(weight, SCHEMES["nvfp4"])
    assert parts.scale.float().max() == 448
    assert parts.global_scale == weight.abs().max() / (6 * 448)

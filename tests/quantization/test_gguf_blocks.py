"""GGUF's blocks, repacked, against the numbers that the gguf library reads in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize as widen
from torch import Tensor

from autodeploy.quantization import dequantize
from autodeploy.quantization.gguf import BLOCK_BYTES, repack

SCALES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q4_K": (0, 2), "Q6_K": (208,)}
GROUPS = {"Q8_0": 32, "Q4_0": 32, "Q4_1": 32, "Q4_K": 32, "Q6_K": 16}


def blocks(kind: str) -> np.ndarray:
    """Six rows of four blocks of random bytes, but for their scales, of which one is zero."""
    random = np.random.default_rng(0)
    data = random.integers(0, 256, (6, 4, BLOCK_BYTES[kind]), dtype=np.uint8)
    for at in SCALES[kind]:
        data[..., at : at + 2] = random.normal(0, 0.01, (6, 4, 1)).astype(np.float16).view(np.uint8)
    data[0, 0, SCALES[kind][0] : SCALES[kind][0] + 2] = 0
    return data.reshape(6, -1)


def numbers(data: np.ndarray, kind: str) -> Tensor:
    parts = repack(torch.from_numpy(data), kind)
    format = "int8" if parts.values.dtype is torch.int8 else "int4"
    return dequantize(parts.values, parts.scale, parts.zero, parts.global_scale, format)


@pytest.mark.parametrize("kind", BLOCK_BYTES)
def test_the_numbers_are_those_of_the_library(kind: str) -> None:
    data = blocks(kind)
    wanted = torch.from_numpy(widen(data, GGMLQuantizationType[kind]))
    found = numbers(data, kind)
    assert (found - wanted).norm() <= 1e-7 * wanted.norm()
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)  # the group without a scale too
    assert repack(torch.from_numpy(data), kind).scale.shape[1] == wanted.shape[1] // GROUPS[kind]


@pytest.mark.parametrize("kind", BLOCK_BYTES)
def test_rows_are_repacked_by_themselves(kind: str) -> None:
    data = blocks(kind)
    assert torch.equal(numbers(data[[4, 1]], kind), numbers(data, kind)[[4, 1]])

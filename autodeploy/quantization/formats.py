"""The formats in which weights are stored, and what the numbers in them stand for.

| format | values | scale | zero |
|---|---|---|---|
| int8 | int8 `[N, K]` | `[N, G]`, G = K / group | |
| int4 | uint8 `[N, K/2]`, two of 0 to 15 a byte | `[N, G]` | `[N, G]` uint8 or floating; 8 where there is none |
| fp8 | float8_e4m3fn `[N, K]` | float32 `[1, 1]`, `[N, 1]` or blocks `[ceil(N/128), ceil(K/128)]` | |
| nvfp4 | uint8 `[N, K/2]`, pairs of e2m1 | float8_e4m3fn `[N, K/16]`, times a float32 `global_scale []` | |
| mxfp4 | uint8 `[N, K/2]`, pairs of e2m1 | uint8 `[N, K/32]`, exponents of two biased by 127 (e8m0) | |

Of two 4-bit numbers in a byte, the one with the lower k is the low nibble.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType

import torch
from torch import Tensor

from autodeploy.quantization.nibbles import decode_e2m1, unpack_nibbles

FORMATS: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "int8": torch.int8,
        "int4": torch.uint8,
        "fp8": torch.float8_e4m3fn,
        "nvfp4": torch.uint8,
        "mxfp4": torch.uint8,
    }
)
"""The formats of weights, and the dtype that holds their values."""

PACKED = ("int4", "nvfp4", "mxfp4")
"""The formats with two values a byte."""

MAXIMUM: Mapping[str, float] = MappingProxyType({"fp8": 448.0, "int8": 127.0})
"""The largest number of each format that activations are quantized to."""

BLOCK = 128
"""The edge of a block of fp8 weights that share a scale (DeepSeek-V3, 3.3.2)."""


def dequantize(weight: Tensor, scale: Tensor, zero: Tensor | None, global_scale: Tensor | None, format: str) -> Tensor:
    """The numbers `[N, K]` in float32 that a stored weight stands for."""
    values = _values(weight, format)
    wide = spread(_scale(scale, format), values.shape, format)
    if format == "int4":
        values = values - (8.0 if zero is None else spread(zero.float(), values.shape, format))
    product = values * wide
    return product if global_scale is None else product * global_scale.float()


def spread(scale: Tensor, shape: torch.Size | tuple[int, ...], format: str) -> Tensor:
    """`scale [S0, S1]` with a number for each of `shape [N, K]`, or of a dimension that is then broadcast."""
    for dim in (-2, -1):
        count, size = scale.shape[dim], shape[dim]
        if count not in (1, size):
            block = BLOCK if format == "fp8" else size // count
            scale = scale.repeat_interleave(block, dim).narrow(dim, 0, size)
    return scale


def blocks(shape: tuple[int, int]) -> tuple[int, int]:
    """How many blocks of 128 by 128 cover `shape`."""
    return ceil(shape[0] / BLOCK), ceil(shape[1] / BLOCK)


def _values(weight: Tensor, format: str) -> Tensor:
    if format == "int4":
        return unpack_nibbles(weight).float()
    return decode_e2m1(weight) if format in PACKED else weight.float()


def _scale(scale: Tensor, format: str) -> Tensor:
    return torch.exp2(scale.float() - 127) if format == "mxfp4" else scale.float()

"""GGUF's blocks as the formats of `autodeploy.quantization.formats`: the same numbers, in the layouts of kernels.

| GGUF | a block | becomes |
|---|---|---|
| Q8_0 | 32 int8, a scale | int8 in groups of 32 |
| Q4_0 | 32 codes less 8, a scale | int4 in groups of 32 |
| Q4_1 | 32 codes, a scale and a minimum | int4 in groups of 32, with zero points of -minimum / scale |
| Q4_K | 8 times 32 codes, each with 6-bit multiples of a scale and of a minimum | int4 in groups of 32, with such zero points |
| Q6_K | 16 times 16 codes less 32, each with an 8-bit multiple of a scale | int8 in groups of 16 |

The layouts of blocks are those of ggml (`ggml-common.h`, `ggml-quants.c`).
"""  # noqa: E501 (a row of the table)

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from autodeploy.quantization.nibbles import pack_nibbles, unpack_nibbles
from autodeploy.quantization.rounding import Parts

BLOCK_BYTES: Mapping[str, int] = MappingProxyType({"Q8_0": 34, "Q4_0": 18, "Q4_1": 20, "Q4_K": 144, "Q6_K": 210})
"""The kinds of blocks that are known, and the bytes of one."""


def repack(data: Tensor, kind: str) -> Parts:
    """The weight `[N, K]` whose rows are the blocks `data [N, bytes]`, uint8, of a kind in `BLOCK_BYTES`.

    Scales are float32, since those of Q4_K and Q6_K are products.
    """
    return _KINDS[kind](data.reshape(len(data), -1, BLOCK_BYTES[kind]))


def _q8_0(blocks: Tensor) -> Parts:
    return Parts(blocks[..., 2:].contiguous().view(torch.int8).flatten(1), _halves(blocks[..., :2]).flatten(1))


def _q4_0(blocks: Tensor) -> Parts:
    return Parts(_codes(blocks[..., 2:]), _halves(blocks[..., :2]).flatten(1))


def _q4_1(blocks: Tensor) -> Parts:
    scale, minimum = (_halves(blocks[..., at : at + 2]).flatten(1) for at in (0, 2))
    return _above(_codes(blocks[..., 4:]), scale, minimum)


def _q4_k(blocks: Tensor) -> Parts:
    scale, minimum = (_halves(blocks[..., at : at + 2]) for at in (0, 2))
    low, middle, high = blocks[..., 4:8], blocks[..., 8:12], blocks[..., 12:16]
    factors = torch.cat((low & 63, high & 15 | (low >> 6) << 4), -1)
    offsets = torch.cat((middle & 63, high >> 4 | (middle >> 6) << 4), -1)
    codes = _codes(_split(blocks[..., 16:], 4, 32))
    return _above(codes, (scale * factors).flatten(1), -(minimum * offsets).flatten(1))


def _q6_k(blocks: Tensor) -> Parts:
    low = _split(blocks[..., :128], 2, 64)
    high = _split(blocks[..., 128:192], 2, 1, 32) >> torch.tensor([0, 2, 4, 6]).reshape(4, 1)
    nibbles = _split(torch.cat((low & 15, low >> 4), -1), 4, 32)
    codes = (nibbles | (high & 3) << 4).flatten(1).to(torch.int8) - 32
    factors = blocks[..., 192:208].contiguous().view(torch.int8)
    return Parts(codes, (_halves(blocks[..., 208:]) * factors).flatten(1))


_KINDS: Mapping[str, Callable[[Tensor], Parts]] = MappingProxyType(
    {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k, "Q6_K": _q6_k}
)


def _split(data: Tensor, *sizes: int) -> Tensor:
    """The last dimension as several."""
    return data.reshape(*data.shape[:-1], *sizes)


def _halves(data: Tensor) -> Tensor:
    """Numbers of two bytes, in float32."""
    return data.contiguous().view(torch.float16).float()


def _codes(halves: Tensor) -> Tensor:
    """Bytes whose low nibbles come first, then their high ones, packed as neighbours: `[N, K / 2]`."""
    return pack_nibbles(torch.cat((halves & 15, halves >> 4), -1).flatten(1))


def _above(codes: Tensor, scale: Tensor, minimum: Tensor) -> Parts:
    """`scale * code + minimum` by zero points. A group without a scale is `minimum` everywhere, so any code will do."""
    constant = scale == 0
    scale = torch.where(constant, torch.ones_like(scale), scale)
    group = codes.shape[1] * 2 // scale.shape[1]
    zeroed = unpack_nibbles(codes).masked_fill(constant.repeat_interleave(group, 1), 0)
    return Parts(pack_nibbles(zeroed), scale, -minimum / scale)

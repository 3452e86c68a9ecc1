"""Rounding weights to the nearest numbers that a scheme can store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from autodeploy.quantization.formats import BLOCK, MAXIMUM, spread
from autodeploy.quantization.nibbles import E2M1, encode_e2m1, pack_nibbles
from autodeploy.quantization.scheme import Scheme

ENDS = (6.0, 5.5, 4.5, 4.0)
"""What nvfp4 brings the largest of a group to. With 6 and 4, what can be stored stays as it is."""


@dataclass(frozen=True)
class Parts:
    """A stored weight: what `autodeploy.quantization.formats` says each format consists of."""

    values: Tensor
    scale: Tensor
    zero: Tensor | None = None
    global_scale: Tensor | None = None


def round_weight(weight: Tensor, scheme: Scheme, amax: Tensor | None = None) -> Parts:
    """The nearest numbers to `weight [N, K]` that `scheme` can store; scales are found from what they scale.

    `amax` is the largest magnitude of a weight of which these are only some rows, for schemes that need it: one scale
    for all (`tensor`), and nvfp4. Scales of groups are in the dtype of `weight`, others in float32. Rows may be rounded
    by themselves; of blocks, rows of whole blocks.
    """
    wide = weight.float()
    largest = wide.abs().amax() if amax is None else amax.float()
    return _ROUNDINGS[scheme.weights](wide, scheme, largest, weight.dtype)


def _round_int8(wide: Tensor, scheme: Scheme, largest: Tensor, dtype: torch.dtype) -> Parts:
    scale = _nonzero(_amax(wide, scheme, largest) / MAXIMUM["int8"])
    if scheme.scope == "group":
        scale = scale.to(dtype)
    codes = (wide / spread(scale.float(), wide.shape, "int8")).round().clamp(-127, 127)
    return Parts(codes.to(torch.int8), scale)


def _round_fp8(wide: Tensor, scheme: Scheme, largest: Tensor, dtype: torch.dtype) -> Parts:
    maximum = MAXIMUM["fp8"]
    scale = _nonzero(_amax(wide, scheme, largest) / maximum)
    scaled = wide / spread(scale, wide.shape, "fp8")
    return Parts(scaled.clamp(-maximum, maximum).to(torch.float8_e4m3fn), scale)


def _round_int4(wide: Tensor, scheme: Scheme, largest: Tensor, dtype: torch.dtype) -> Parts:
    """Symmetric groups use all 16 codes: whichever end is further from zero becomes code 0, which stands for -8."""
    groups = _grouped(wide, scheme.group)
    low, high = groups.amin(-1), groups.amax(-1)
    if scheme.zeros:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = _nonzero((high - low) / 15).to(dtype)
        zero = (-low / scale.float()).round().clamp(0, 15)
    else:
        scale = _nonzero(torch.where(high > -low, high, low) / -8).to(dtype)
        zero = torch.full_like(low, 8)
    codes = (groups / scale.float().unsqueeze(-1)).round() + zero.unsqueeze(-1)
    packed = pack_nibbles(codes.clamp(0, 15).reshape(wide.shape))
    return Parts(packed, scale, zero.to(torch.uint8) if scheme.zeros else None)


def _round_nvfp4(wide: Tensor, scheme: Scheme, largest: Tensor, dtype: torch.dtype) -> Parts:
    """The global scale brings the largest group's scale to the largest e4m3 (NVIDIA, NVFP4, 2025).

    Between 4 and 6 there is nothing, so that each group takes the one of a few scales that loses least, squared (Cook
    et al., "Four Over Six", 2025).
    """
    global_scale = _nonzero(largest / (E2M1[-1] * MAXIMUM["fp8"]))
    groups = _grouped(wide, scheme.group)
    tried = torch.stack([_e4m3(groups.abs().amax(-1) / end / global_scale) for end in ENDS])
    loss = torch.stack([_loss_in_e2m1(groups, one * global_scale) for one in tried])
    scale = tried.gather(0, loss.argmin(0, keepdim=True))[0]
    units = groups / _nonzero(scale * global_scale).unsqueeze(-1)
    return Parts(encode_e2m1(units.reshape(wide.shape)), scale.to(torch.float8_e4m3fn), None, global_scale)


def _e4m3(scale: Tensor) -> Tensor:
    """The nearest numbers of e4m3, in float32."""
    return scale.clamp(max=MAXIMUM["fp8"]).to(torch.float8_e4m3fn).float()


def _loss_in_e2m1(groups: Tensor, scale: Tensor) -> Tensor:
    """What groups `[N, G, 16]` lose under scales `[N, G]`, squared."""
    step = _nonzero(scale)
    size = groups.abs() / step.unsqueeze(-1)
    pitch = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))  # from one number to the next
    near = (size / pitch).round_().mul_(pitch).clamp_(max=E2M1[-1])
    return near.sub_(size).square_().sum(-1) * step.square()


def _round_mxfp4(wide: Tensor, scheme: Scheme, largest: Tensor, dtype: torch.dtype) -> Parts:
    """The exponent of the largest, less that of 4, the largest power of two in e2m1 (OCP Microscaling v1.0, 6.3)."""
    groups = _grouped(wide, scheme.group)
    exponent = torch.frexp(_nonzero(groups.abs().amax(-1))).exponent - 1 - 2
    exponent = exponent.clamp(-127, 127)
    units = groups * torch.exp2(-exponent.float()).unsqueeze(-1)
    return Parts(encode_e2m1(units.reshape(wide.shape)), (exponent + 127).to(torch.uint8))


_ROUNDINGS: Mapping[str, Callable[[Tensor, Scheme, Tensor, torch.dtype], Parts]] = MappingProxyType(
    {"int8": _round_int8, "fp8": _round_fp8, "int4": _round_int4, "nvfp4": _round_nvfp4, "mxfp4": _round_mxfp4}
)


def _amax(wide: Tensor, scheme: Scheme, largest: Tensor) -> Tensor:
    """The largest magnitude of whatever shares a scale, in the layout of scales."""
    size = wide.abs()
    if scheme.scope == "tensor":
        return largest.reshape(1, 1)
    if scheme.scope == "group":
        return _grouped(size, scheme.group).amax(-1)
    if scheme.scope == "block":
        rows, columns = (-(-count // BLOCK) * BLOCK for count in wide.shape)
        whole = size.new_zeros(rows, columns)
        whole[: wide.shape[0], : wide.shape[1]] = size
        return whole.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK).amax((1, 3))
    return size.amax(-1, keepdim=True)


def _grouped(wide: Tensor, group: int) -> Tensor:
    return wide.reshape(len(wide), -1, group)


def _nonzero(scale: Tensor) -> Tensor:
    """A scale of nothing but zeros is 1."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)

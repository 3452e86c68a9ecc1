"""Two 4-bit numbers a byte, and the numbers that those of e2m1 stand for."""

from __future__ import annotations

import torch
from torch import Tensor

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes of e2m1 by their three low bits; the fourth is the sign (OCP Microscaling Formats v1.0, 5.3.3)."""


def pack_nibbles(codes: Tensor) -> Tensor:
    """Integers 0 to 15 `[..., K]`, K even, to uint8 `[..., K/2]`: an even k in the low nibble, the next in the high."""
    codes = codes.to(torch.uint8)
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """What `pack_nibbles` was given, as uint8."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def decode_e2m1(packed: Tensor) -> Tensor:
    """Packed pairs of e2m1, uint8 `[..., K/2]`, as float32 `[..., K]`."""
    magnitudes = torch.tensor(E2M1, dtype=torch.float32, device=packed.device)
    return torch.cat((magnitudes, -magnitudes))[unpack_nibbles(packed).long()]


def encode_e2m1(x: Tensor) -> Tensor:
    """Round floats `[..., K]` to the nearest e2m1, ties to the even code, and pack: uint8 `[..., K/2]`.

    What lies beyond 6 becomes 6, as the specification asks of conversions that saturate.
    """
    size = x.abs().float()
    small, large = (2 * size).round(), torch.where(size < 4, size.round() + 2, (size / 2).round() + 4)
    code = torch.where(size < 2, small, large).clamp_(max=len(E2M1) - 1)
    return pack_nibbles(code + 8 * torch.signbit(x))

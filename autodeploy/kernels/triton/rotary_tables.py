"""The cosines and sines that tokens turn by: one program for each token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.rope import pairs


@triton.jit
def _rotary_tables_kernel(
    positions,
    frequencies,
    cos,
    sin,
    scaling,
    rotary: tl.constexpr,
    interleaved: tl.constexpr,
    overlapped: tl.constexpr,
    HALF: tl.constexpr,  # noqa: N803
) -> None:
    first, second, paired = pairs(rotary, interleaved, HALF)
    pair = tl.arange(0, HALF)[None, :]
    frequency = tl.load(frequencies + pair, mask=paired, other=0.0)  # no kernel writes them
    await_inputs(overlapped)
    token = tl.program_id(0).to(tl.int64)
    angle = tl.load(positions + token).to(tl.float32) * frequency
    cosine = (tl.cos(angle) * scaling).to(cos.dtype.element_ty)
    sine = (tl.sin(angle) * scaling).to(sin.dtype.element_ty)
    at = token * rotary
    tl.store(cos + at + first, cosine, mask=paired)
    tl.store(cos + at + second, cosine, mask=paired)
    tl.store(sin + at + first, sine, mask=paired)
    tl.store(sin + at + second, sine, mask=paired)


def rotary_tables(
    positions: Tensor, frequencies: Tensor, dtype: torch.dtype, scaling: float = 1.0, interleaved: bool = False
) -> tuple[Tensor, Tensor]:
    """`ops.rotary_tables`."""
    rotary = 2 * len(frequencies)
    cos, sin = (torch.empty((*positions.shape, rotary), dtype=dtype, device=positions.device) for _ in range(2))
    if not cos.numel():
        return cos, sin
    half = triton.next_power_of_2(len(frequencies))
    _rotary_tables_kernel[(positions.numel(),)](
        positions.contiguous(),
        frequencies.contiguous(),
        cos,
        sin,
        scaling,
        rotary,
        interleaved,
        HALF=half,
        num_warps=max(1, min(half // 32, 4)),
        **overlap(positions.device),
    )
    return cos, sin

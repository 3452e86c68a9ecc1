"""Rotary position embedding, rounding where the reference rounds."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.narrow import narrow


@triton.jit
def rotate(
    source,
    target,
    known,
    cos,
    sin,
    scale,
    width: tl.constexpr,
    rotary: tl.constexpr,
    interleaved: tl.constexpr,
    HALF: tl.constexpr,  # noqa: N803
    REST: tl.constexpr,  # noqa: N803
) -> None:
    """Rotate heads of one token from the pointers `source [heads, 1]` to `target`; cos and sin point to its angles.

    The target holds them in units of a scale, or as they are when it is None.
    """
    pair = tl.arange(0, HALF)[None, :]
    half: tl.constexpr = rotary // 2
    if interleaved:
        first, second = 2 * pair, 2 * pair + 1
    else:
        first, second = pair, pair + half
    paired = pair < half
    inside = known & paired
    compute = cos.dtype.element_ty
    a = tl.load(source + first, mask=inside, other=0.0).to(compute)
    b = tl.load(source + second, mask=inside, other=0.0).to(compute)
    ac = (a * tl.load(cos + first, mask=paired, other=0.0)).to(compute)
    bs = (b * tl.load(sin + first, mask=paired, other=0.0)).to(compute)
    bc = (b * tl.load(cos + second, mask=paired, other=0.0)).to(compute)
    as_ = (a * tl.load(sin + second, mask=paired, other=0.0)).to(compute)
    given: tl.constexpr = source.dtype.element_ty
    kept: tl.constexpr = target.dtype.element_ty
    tl.store(target + first, narrow((ac - bs).to(given), scale, kept), mask=inside)
    tl.store(target + second, narrow((bc + as_).to(given), scale, kept), mask=inside)
    if rotary < width:
        rest = rotary + tl.arange(0, REST)[None, :]
        passed = known & (rest < width)
        tl.store(target + rest, narrow(tl.load(source + rest, mask=passed), scale, kept), mask=passed)


def rotation_blocks(width: int, rotary: int) -> dict[str, int]:
    """The block sizes that `rotate` takes for heads of `width`, of which the first `rotary` elements turn."""
    half = triton.next_power_of_2(max(rotary // 2, 1))
    return {"HALF": half, "REST": triton.next_power_of_2(max(width - rotary, 1))}


@triton.jit
def _rope_kernel(
    x,
    cos,
    sin,
    out,
    token_stride,
    head_stride,
    heads,
    width: tl.constexpr,
    rotary: tl.constexpr,
    interleaved: tl.constexpr,
    overlapped: tl.constexpr,
    HEADS: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    REST: tl.constexpr,  # noqa: N803
) -> None:
    await_inputs(overlapped)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    source = x + token * token_stride + head * head_stride
    target = out + (token * heads + head) * width
    angles = token * rotary
    rotate(source, target, head < heads, cos + angles, sin + angles, None, width, rotary, interleaved, HALF, REST)


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """`ops.rope`."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    if not x.numel():
        return out
    tokens = x.flatten(0, -3)
    if tokens.stride(-1) != 1:
        tokens = tokens.contiguous()
    num_tokens, heads, width = tokens.shape
    rotary = cos.shape[-1]
    cos, sin = (angles.expand(*x.shape[:-2], rotary).reshape(num_tokens, rotary).contiguous() for angles in (cos, sin))
    blocks = rotation_blocks(width, rotary)
    block = max(1, min(triton.next_power_of_2(heads), 2048 // blocks["HALF"]))
    _rope_kernel[(num_tokens, triton.cdiv(heads, block))](
        tokens,
        cos,
        sin,
        out,
        tokens.stride(0),
        tokens.stride(1),
        heads,
        width,
        rotary,
        interleaved,
        HEADS=block,
        **blocks,
        **overlap(x.device),
    )
    return out

"""Rotary position embedding, rounding where the reference rounds."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.narrow import narrow


@triton.jit
def pairs(rotary: tl.constexpr, interleaved: tl.constexpr, HALF: tl.constexpr):  # noqa: N803
    """The columns `[1, HALF]` of the elements that turn together, and which of them there are."""
    pair = tl.arange(0, HALF)[None, :]
    if interleaved:
        first, second = 2 * pair, 2 * pair + 1
    else:
        first, second = pair, pair + rotary // 2
    return first, second, pair < rotary // 2


@triton.jit
def read_angles(cos, sin, first, second, paired):
    """The cosines and sines of both elements of each pair, from the pointers to a token's."""
    first_cos = tl.load(cos + first, mask=paired, other=0.0)
    first_sin = tl.load(sin + first, mask=paired, other=0.0)
    second_cos = tl.load(cos + second, mask=paired, other=0.0)
    second_sin = tl.load(sin + second, mask=paired, other=0.0)
    return first_cos, first_sin, second_cos, second_sin


@triton.jit
def turn(a, b, angles, dtype: tl.constexpr):
    """Pairs `a, b` turned by their angles, in dtype."""
    first_cos, first_sin, second_cos, second_sin = angles
    compute: tl.constexpr = first_cos.dtype
    a, b = a.to(compute), b.to(compute)
    ac, bs = (a * first_cos).to(compute), (b * first_sin).to(compute)
    bc, as_ = (b * second_cos).to(compute), (a * second_sin).to(compute)
    return (ac - bs).to(dtype), (bc + as_).to(dtype)


@triton.jit
def read_turned(
    source,
    column,
    known,
    cos,
    sin,
    token,
    rotary: tl.constexpr,
    interleaved: tl.constexpr,
):
    """The elements `column` of heads at the pointers `source`, turned by a token's angles (None: as they are)."""
    x = tl.load(source + column, mask=known, other=0.0)
    if rotary > 0:
        if interleaved:
            first = column % 2 == 0
            partner = tl.where(first, column + 1, column - 1)
        else:
            first = column < rotary // 2
            partner = tl.where(first, column + rotary // 2, column - rotary // 2)
        turns = column < rotary
        other = tl.load(source + partner, mask=known & turns, other=0.0)
        column_cos = tl.load(cos + token * rotary + column, mask=turns, other=1.0)
        column_sin = tl.load(sin + token * rotary + column, mask=turns, other=0.0)
        compute: tl.constexpr = column_cos.dtype
        kept, turned = (x.to(compute) * column_cos).to(compute), (other.to(compute) * column_sin).to(compute)
        x = tl.where(first, kept - turned, kept + turned).to(source.dtype.element_ty)
    return x


@triton.jit
def pass_rest(
    source,
    target,
    known,
    scale,
    width: tl.constexpr,
    rotary: tl.constexpr,
    REST: tl.constexpr,  # noqa: N803
) -> None:
    """Copy the elements past the rotary ones from the pointers `source [heads, 1]` to `target`, in units of a scale."""
    if rotary < width:
        rest = rotary + tl.arange(0, REST)[None, :]
        passed = known & (rest < width)
        elements = narrow(tl.load(source + rest, mask=passed), scale, target.dtype.element_ty)
        tl.store(target + rest, elements, mask=passed)


def rotation_blocks(width: int, rotary: int) -> dict[str, int]:
    """The block sizes of `pairs` and `pass_rest` for heads of `width`, of which the first `rotary` elements turn."""
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
    first, second, paired = pairs(rotary, interleaved, HALF)
    angles = read_angles(cos + token * rotary, sin + token * rotary, first, second, paired)
    known = (head < heads) & paired
    a = tl.load(source + first, mask=known, other=0.0)
    b = tl.load(source + second, mask=known, other=0.0)
    a, b = turn(a, b, angles, out.dtype.element_ty)
    tl.store(target + first, a, mask=known)
    tl.store(target + second, b, mask=known)
    pass_rest(source, target, head < heads, None, width, rotary, REST)


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

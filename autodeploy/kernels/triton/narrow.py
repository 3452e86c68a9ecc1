"""Numbers as a cache of 8 bits holds them."""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.launch import INTERPRETED

TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it rounds float32 to integers, halves to even
COMPILED = tl.constexpr(not INTERPRETED)
FOUR_HALVES = tl.constexpr("""{
    .reg .b32 bytes, first, second, offset;
    mov.b32 offset, 0x64806480;
    xor.b32 bytes, $2, 0x80808080;
    prmt.b32 first, bytes, 0x64646464, 0x5140;
    prmt.b32 second, bytes, 0x64646464, 0x5342;
    sub.f16x2 $0, first, offset;
    sub.f16x2 $1, second, offset;
}""")
"""Of four int8: 0x6400 + n is the half 1024 + n, and n is 128 more than the integer."""


@triton.jit
def narrow(x, scale, dtype: tl.constexpr):
    """x in units of a scale (None: 1) as pages of dtype hold it: rounded to the nearest and, in 8 bits, saturated."""
    if scale is not None:
        x = tl.div_rn(x.to(tl.float32), scale)
    if dtype == tl.int8:
        x = tl.clamp(x.to(tl.float32), -127.0, 127.0) + TO_INTEGER - TO_INTEGER
    elif dtype == tl.float8e4nv:
        x = tl.clamp(x.to(tl.float32), -448.0, 448.0)
    return x.to(dtype)


@triton.jit
def widen(x, dtype: tl.constexpr):
    """What pages hold in dtype, exactly."""
    if x.dtype == tl.int8 and dtype == tl.float16 and COMPILED:
        wide = tl.inline_asm_elementwise(FOUR_HALVES, "=r,=r,r", [x], dtype=tl.float16, is_pure=True, pack=4)
    else:
        wide = x.to(dtype)
    return wide


@triton.jit
def as_halves(x, axis: tl.constexpr):
    """x in float16, in units of a power of two for each line along the axis: none is too large, nothing is lost.

    Caches of 8 bits become halves, and not bfloat16, in few instructions: what meets them is then a half as well.
    """
    wide = x.to(tl.float32)
    unit = tl.exp2(tl.ceil(tl.log2(tl.maximum(tl.max(tl.abs(wide), axis=axis, keep_dims=True), 1e-30))))
    return (wide / unit).to(tl.float16), unit

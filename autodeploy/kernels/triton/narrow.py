"""Numbers as a cache of 8 bits holds them."""

from __future__ import annotations

import triton
import triton.language as tl

TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding it rounds float32 to integers, halves to even


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

"""A kernel for tests of what compiles kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def scaled_add(x, y, out, n, scale: tl.constexpr, BLOCK: tl.constexpr) -> None:  # type: ignore[no-untyped-def]  # noqa: N803
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = at < n
    tl.store(out + at, tl.load(x + at, mask=known) + scale * tl.load(y + at, mask=known), mask=known)


@triton.jit  # type: ignore[untyped-decorator]
def broken(x, BLOCK: tl.constexpr) -> None:  # type: ignore[no-untyped-def]  # noqa: N803
    tl.static_assert(BLOCK > 1 << 20, "never")

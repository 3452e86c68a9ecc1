"""Asking for the beginning of a weight before the inputs are awaited: requests that bring it to the second-level cache.

For kernels that keep their tiles in a pipeline, which starts when the inputs are there. One request names a whole piece
of a row (`cp.async.bulk.prefetch.L2` of PTX, compute capability 9.0), where a load names 16 bytes.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import overlaps

WORD = 16
"""Bytes that requests are made of, and that they begin on."""


def columns_ahead(wanted: int, weight: Tensor, share: int) -> int:
    """How many columns of its rows of a dense weight a program may ask for, which multiplies `share` of each.

    None on devices without such requests, and where pieces of rows are not made of words.
    """
    columns = min(wanted, share)
    sizes = (weight.data_ptr(), weight.shape[1] * weight.itemsize, share * weight.itemsize, columns * weight.itemsize)
    return columns if overlaps(weight.device) and not any(size % WORD for size in sizes) else 0


@triton.jit
def ask_ahead(weight, n, k, first, gated: tl.constexpr, AHEAD: tl.constexpr, BLOCK_N: tl.constexpr):  # noqa: N803
    """Ask for AHEAD columns, from the first, of the rows of a weight `[n, k]`, or `[2 n, k]`, of `_rows_of_program`.

    All of the rows exist. Nothing is asked for where AHEAD is 0.
    """
    if AHEAD > 0:
        ROWS: tl.constexpr = BLOCK_N // 2 if gated else BLOCK_N  # noqa: N806
        row = tl.program_id(0).to(tl.int64) * ROWS
        _ask(weight + row * k + first, k, AHEAD, ROWS)
        if gated:
            _ask(weight + (row + n) * k + first, k, AHEAD, ROWS)


@triton.jit
def _ask(at, k, COLUMNS: tl.constexpr, ROWS: tl.constexpr) -> None:  # noqa: N803
    """Ask for COLUMNS of as many of ROWS rows as there are threads: each asks for one."""
    SIZE: tl.constexpr = at.dtype.element_ty.primitive_bitwidth // 8  # noqa: N806
    tl.inline_asm_elementwise(
        """{
        .reg .pred mine; .reg .b32 thread; .reg .b64 row;
        mov.u32 thread, %tid.x;
        setp.lt.u32 mine, thread, $2;
        mad.wide.u32 row, thread, $3, $1;
        @mine cp.async.bulk.prefetch.L2.global [row], $4;
        mov.b32 $0, 0;
        }""",
        "=r,l,r,r,r",
        [tl.cast(at, tl.int64), ROWS, k * SIZE, COLUMNS * SIZE],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )

"""Which matmuls of few rows the kernel `narrow` serves, and how their work may be cut."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from autodeploy.kernels.cuda import why_unavailable
from autodeploy.kernels.storage import Storage

COLUMNS = 128
"""Of a unit, 64 bytes of each row of the weight, which are a group."""
UNIT_BYTES = 64
TOKENS = (1, 8, 16)
"""For so many rows of x a kernel can be made."""
LEAST_COLUMNS = 128
MOST_TILES = 1 << 13
"""So many, at most, can have programs that share them."""
SHARED_BYTES = 226 << 10
"""Of a block on the GPUs from Hopper on, but for 1 KB that the kernel has itself."""


@dataclass(frozen=True)
class NarrowConfig:
    """How the work is cut: each team of `team` warps takes tiles of 16 * `slabs` rows of the weight by turns.

    Its warps share out the columns, and each has a ring of `stages` times `steps` units of 64 bytes of all rows. A
    block has `teams` of them, which share x; `split` blocks share out the columns once more. With `fitted`, up to 8
    rows of bfloat16 become float16 where registers have room, each times a power of two.
    """

    slabs: int
    team: int
    teams: int
    steps: int
    stages: int
    split: int = 1
    fitted: bool = True

    def shared_bytes(self, m: int, units: int) -> int:
        """The shared memory of a block: rings, x and its sums, the warps' sums of two tiles."""
        rows, warps, tokens = 16 * self.slabs, self.team * self.teams, tokens_of(m)
        own = min(units, self.team * self.units_a_warp(units))
        rings = warps * self.stages * (rows * self.steps * UNIT_BYTES + 128)
        columns = own * 256 * tokens
        found = 2 * warps * 4 * rows * max(tokens, 8) if self.team > 1 else 0
        return rings + columns + ceil(own * tokens / 4) * 16 + found

    def units_a_warp(self, units: int) -> int:
        """How many of the units of a row each warp multiplies."""
        return ceil(units / (self.team * self.split))

    def tiles(self, n: int, gated: bool) -> int:
        """How many tiles a result of n columns has."""
        return ceil(n / (8 * self.slabs if gated else 16 * self.slabs))


ONE_ROW = tuple(
    NarrowConfig(*cut)
    for cut in (
        (1, 8, 2, 4, 1), (1, 1, 14, 4, 2), (1, 4, 4, 4, 2), (1, 4, 3, 8, 1), (2, 8, 2, 4, 1), (1, 2, 4, 4, 3),
        (2, 14, 1, 2, 2), (1, 7, 2, 4, 2),
    )
)  # fmt: skip
FEW_ROWS = tuple(
    NarrowConfig(*cut)
    for cut in (
        (1, 4, 2, 4, 2, 1), (1, 8, 1, 4, 2, 1), (2, 8, 1, 4, 1, 1), (1, 2, 4, 4, 2, 2), (1, 4, 3, 8, 1, 1, False),
        (1, 4, 2, 8, 1, 1, False), (2, 16, 1, 2, 1, 1, False), (1, 4, 3, 4, 2, 1, False), (1, 4, 4, 2, 2, 2, False),
    )
)  # fmt: skip
SOME_ROWS = tuple(
    NarrowConfig(*cut, False)
    for cut in (
        (1, 4, 2, 4, 2, 1), (1, 4, 3, 2, 2, 1), (1, 8, 1, 4, 2, 1), (1, 2, 8, 4, 1, 4), (1, 2, 8, 2, 2, 4),
        (2, 2, 4, 2, 2, 4),
    )
)  # fmt: skip


def tokens_of(m: int) -> int:
    """How many rows of x a block has room for, when there are m."""
    return next(tokens for tokens in TOKENS if m <= tokens)


def declines(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> str | None:
    """Why m rows by a weight `[n, k]` are left to other kernels, or None."""
    if storage.format != "int4":
        return f"weights of {storage.format or dtype} are not multiplied"
    if k % COLUMNS:
        return f"rows of {k} numbers are no whole number of units"
    if m > TOKENS[-1] or dtype.itemsize != 2:
        return f"{m} rows of {dtype} are not multiplied"
    if n < LEAST_COLUMNS:
        return f"results of {n} columns fill no tile"
    if storage.groups == 1 or storage.scale_rows != n:
        return "scales are not those of groups of each row"
    return None if k == storage.groups * COLUMNS else f"groups are not of {COLUMNS} numbers"


def candidates(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> tuple[NarrowConfig, ...]:
    """The configurations worth timing for m rows of x, the best guess first; none where other kernels must serve."""
    if not runs_here() or declines(m, n, k, dtype, storage) is not None:
        return ()
    cuts = {1: ONE_ROW, 8: FEW_ROWS, 16: SOME_ROWS}[tokens_of(m)]
    return tuple(one for one in cuts if _fits(one, m, n, k // COLUMNS))


def runs_here() -> bool:
    """Whether the current GPU is of a generation that the kernel is written for, and it can be compiled."""
    here = why_unavailable() is None and torch.cuda.is_available()
    return here and torch.cuda.get_device_capability() >= (9, 0)


def _fits(config: NarrowConfig, m: int, n: int, units: int) -> bool:
    """Whether a block's memory has room, each warp has work, and tiles that are shared can be counted."""
    counted = config.split == 1 or config.tiles(n, gated=True) <= MOST_TILES
    return counted and config.units_a_warp(units) >= 2 and config.shared_bytes(m, units) <= SHARED_BYTES

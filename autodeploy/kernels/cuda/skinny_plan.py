"""Which matmuls of few rows the kernel `skinny` serves, and how their work may be cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autodeploy.kernels.cuda.narrow_plan import MOST_TILES, SHARED_BYTES, runs_here
from autodeploy.kernels.storage import PLAIN, Storage

ROWS = 16
"""Of the weight in a tile."""
UNIT_BYTES = 64
"""Of each row of the weight: what a warp multiplies at once."""
TOKENS = 8
"""So many columns the matrix units have room for: one for each row of x, or two where its numbers have two digits."""
SHEETS = 2
"""Warps that finish tiles, each with memory for what the others found."""
MOST_UNITS = 16
"""Of a warp, which has what it multiplies them with in registers."""
LEAST_SHARED = 6
"""Units of a warp, where blocks share out the columns."""
LEAST_ROWS = 128
"""Of a weight."""
FORMATS = ("", "fp8", "int8")


@dataclass(frozen=True)
class SkinnyCut:
    """How the work is cut: `team` warps share out the columns of each tile of 16 rows of the weight.

    Each has a ring of `stages` times `steps` units of 64 bytes of all rows; `split` blocks share out the columns once
    more. A thread has as many registers as leave room for `resident` blocks of a multiprocessor.
    """

    team: int
    steps: int
    stages: int
    split: int = 1
    resident: int = 2

    @property
    def ring_bytes(self) -> int:
        """The shared memory of the rings."""
        return self.team * self.stages * self.steps * ROWS * UNIT_BYTES

    @property
    def shared_bytes(self) -> int:
        """The shared memory of a block: rings, and what its warps found of two tiles, with their barriers."""
        return self.ring_bytes + SHEETS * (self.team * 512 + 16)

    def cuts(self, row_bytes: int) -> bool:
        """Whether rows of the weight can be cut so: every warp has as many units, neither too few nor too many."""
        shares = self.team * self.split * UNIT_BYTES
        own = row_bytes // shares
        return row_bytes % (shares * self.steps) == 0 and own <= MOST_UNITS and (self.split == 1 or own >= LEAST_SHARED)


CUTS = tuple(
    SkinnyCut(*cut)
    for cut in (
        (16, 2, 3, 1, 1), (8, 2, 9), (16, 4, 2, 1, 1), (8, 4, 4), (14, 2, 6, 2), (14, 2, 6, 1, 1),
        (14, 2, 3, 2, 1), (14, 4, 2, 4), (16, 2, 4, 2, 1),
    )
)  # fmt: skip
"""Each takes more than half of a multiprocessor, in registers or in shared memory, so that no two lie on one."""


def tiles(n: int) -> int:
    """How many tiles a weight of n rows has, whether half of them are of a gate or not."""
    return -(-n // ROWS)


def declines(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> str | None:
    """Why m rows by a weight `[n, k]` are left to other kernels, or None."""
    if storage.format not in FORMATS or dtype.itemsize != 2:
        return f"{storage.format or 'plain'} weights with {dtype} are not multiplied"
    if m > most_rows(storage):
        return f"{m} rows are more than {most_rows(storage)}"
    if n < LEAST_ROWS:
        return f"weights of {n} rows occupy too few blocks"
    if not storage.format:
        return None
    if storage.groups != 1 or storage.scale_rows not in (1, n) or storage.zero or storage.has_global_scale:
        return "scales are not those of rows"
    if storage.x_groups > 1:
        return "rows of x have several scales"
    return "only int8 is multiplied by 16 bits" if storage.format == "fp8" and storage.x_groups < 0 else None


def most_rows(storage: Storage) -> int:
    """How many rows of x a weight is multiplied with at most."""
    return TOKENS // 2 if has_digits(storage) else TOKENS


def has_digits(storage: Storage) -> bool:
    """Whether x, of 16 bits, becomes integers of two digits."""
    return storage.format == "int8" and not storage.quantizes_activations


def candidates(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage = PLAIN) -> tuple[SkinnyCut, ...]:
    """The cuts worth timing for m rows of x, the best guess first; none where other kernels must serve."""
    if not runs_here() or declines(m, n, k, dtype, storage) is not None:
        return ()
    row_bytes = k * (1 if storage.format else dtype.itemsize)
    return tuple(one for one in CUTS if one.cuts(row_bytes) and _fits(one, n))


def _fits(cut: SkinnyCut, n: int) -> bool:
    """Whether a block's memory has room, and tiles that are shared can be counted."""
    return cut.shared_bytes <= SHARED_BYTES and (cut.split == 1 or tiles(n) <= MOST_TILES)

"""Which matmuls by int4 in groups the kernel `packed_tiles` serves, and how their work may be cut."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from autodeploy.kernels.cuda import why_unavailable
from autodeploy.kernels.storage import Storage

COLUMNS = 128
"""Of a group, 64 bytes of each row of the weight."""
TOKENS = (32, 64, 128)
"""For so many rows of x a kernel can be made."""
FEWEST = 16
"""Rows of x up to which there are faster kernels."""
SLAB = 64
"""Rows of the weight that the matrix units take at once."""
SHARED_BYTES = 226 << 10
"""Of a block on Hopper, but for what the driver has itself."""


@dataclass(frozen=True)
class PackedTileConfig:
    """How the work is cut: into tiles of 64 * `slabs` rows of the weight, whose groups `split` blocks share out.

    The rings of a block hold `w_stages` pairs of groups of the weight and `x_stages` groups of x, of which `ahead` more
    are on their way in registers.
    """

    slabs: int
    split: int = 1
    w_stages: int = 3
    x_stages: int = 4
    ahead: int = 2

    @property
    def rows(self) -> int:
        """Of the weight, in a tile."""
        return SLAB * self.slabs

    def shared_bytes(self, m: int, groups: int) -> int:
        """The shared memory of a block: rings and their barriers, and scales."""
        weights = 4 * self.slabs * self.w_stages * (16 * COLUMNS + 8)
        x = self.x_stages * (tokens_of(m) * COLUMNS * 2 + 4 * 32 + 16)
        return weights + x + self.rows * ((ceil(groups / self.split) * 2 + 15) // 32 * 32 + 16)


CUTS = tuple(
    PackedTileConfig(*cut)
    for cut in (
        (2, 1, 2, 6), (2, 2, 2, 6), (2, 3, 2, 6), (1, 2, 2, 6), (2, 1), (2, 2), (2, 3, 4, 5, 3), (1, 2, 4, 5, 3),
        (1, 1, 4, 6, 3), (4, 1, 2, 6), (4, 1),
    )
)  # fmt: skip


def tokens_of(m: int) -> int:
    """How many rows of x a block has room for, when there are m."""
    return next(tokens for tokens in TOKENS if m <= tokens)


def declines(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> str | None:
    """Why m rows by a weight `[n, k]` are left to other kernels, or None."""
    if storage.format != "int4" or storage.zero:
        return f"weights of {storage.format or dtype}{' with zero points' * bool(storage.zero)} are not multiplied"
    if k % COLUMNS or n % 16:
        return f"a weight of {n} x {k} is not of whole groups in 16 bytes of a result"
    if m > TOKENS[-1] or dtype.itemsize != 2:
        return f"{m} rows of {dtype} are not multiplied"
    if storage.scale_rows != n or k != storage.groups * COLUMNS:
        return f"scales are not those of groups of {COLUMNS} numbers"
    return None if storage.scale == str(dtype).removeprefix("torch.") else f"scales of {storage.scale} are not {dtype}"


def candidates(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> tuple[PackedTileConfig, ...]:
    """The configurations worth timing for m rows of x, the best guess first; none where other kernels must serve.

    Up to FEWEST rows, `narrow` is faster.
    """
    if m <= FEWEST or not runs_here() or declines(m, n, k, dtype, storage) is not None:
        return ()
    return tuple(one for one in CUTS if _fits(one, m, k // COLUMNS))


def runs_here() -> bool:
    """Whether the current GPU is of compute capability 9.0, and the kernel can be compiled."""
    here = why_unavailable() is None and torch.cuda.is_available()
    return here and torch.cuda.get_device_capability() == (9, 0)


def _fits(config: PackedTileConfig, m: int, groups: int) -> bool:
    return groups >= 2 * config.split and config.shared_bytes(m, groups) <= SHARED_BYTES

"""Matmuls whose columns are shared out among programs: the last one of a tile to finish adds up what all found.

The shares are float32 and are added in their order, whoever is last: results do not vary between runs. No second launch
is needed, and the counters are zero again when a kernel is done.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_TILES = 1 << 13


@cache
def counters(device: torch.device) -> Tensor:
    """The count of finished shares of MAX_TILES tiles, int32, of all kernels on a device: they run one after another.

    It is made by the first call, which no CUDA graph may hold: nor may it hold the compilation of a kernel.
    """
    return torch.zeros(MAX_TILES, dtype=torch.int32, device=device)


def shares_of(tiles: int, split: int, size: int, device: torch.device) -> Tensor:
    """Memory for the shares of tiles of `size` numbers, where there are any; ValueError for more than MAX_TILES."""
    if split > 1 and tiles > MAX_TILES:
        raise ValueError(f"{tiles} tiles are more than the {MAX_TILES} whose shares can be counted")
    return torch.empty(tiles * split * size if split > 1 else 0, dtype=torch.float32, device=device)


@triton.jit
def leave_share(shares, counters, y, at, tile, share, split):
    """Write the share y of a tile at the places `at`; whether it is the last of `split` to be there."""
    to = shares + (tl.cast(tile, tl.int64) * split + share) * y.numel
    tl.store(to + at, y)  # whole: a mask would write four bytes at a time
    tl.debug_barrier()  # every thread's part is written before the count says so
    finished = tl.atomic_add(counters + tile, 1, sem="acq_rel")
    tl.debug_barrier()
    return finished == split - 1


@triton.jit
def add_shares(shares, counters, at, tile, split):
    """The sum of the shares of a tile, for the program that was last: the counter starts anew."""
    tl.store(counters + tile, 0)
    first = shares + tl.cast(tile, tl.int64) * split * at.numel
    y = tl.load(first + at, cache_modifier=".cg")
    for share in range(1, split):
        y += tl.load(first + share * at.numel + at, cache_modifier=".cg")
    return y

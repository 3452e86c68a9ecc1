"""Attention of single rows over a paged cache by `decode.cu`, which asks for all of a short context at once."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from math import e, log2

import torch
from torch import Tensor

from autodeploy.kernels.cuda import why_unavailable
from autodeploy.kernels.cuda.compile import Variant
from autodeploy.kernels.cuda.launch import launch
from autodeploy.kernels.triton.launch import multiprocessors, overlaps
from autodeploy.kernels.triton.paged import Fresh, Paged, Scoring
from autodeploy.kernels.triton.shares import MAX_TILES, counters

KEYS = 16
"""Of a warp at a time; a page holds a multiple of them."""
WIDTHS = (64, 128)
MOST_HEADS = 8
MOST_SHARES = 128
RESIDENT_WARPS = 16
"""That a multiprocessor has registers for."""
ROOM = 36 << 10
"""Bytes of shared memory for what the warps of a block have found."""
WORD = 8
"""Numbers of 16 bytes, which are read at once."""


@dataclass(frozen=True)
class Blocks:
    """Warps of a block, and the least keys of a share."""

    num_warps: int
    least_keys: int


class Sizes(ctypes.Structure):
    """What the kernel takes besides tensors."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("q_stride", "k_stride", "v_stride", "table_stride")),
        *((name, ctypes.c_int) for name in ("table_width", "requests", "pages", "shares")),
        ("least_keys", ctypes.c_int),
        ("scale", ctypes.c_float),
    )


def serves(q: Tensor, fresh: Fresh, paged: Paged, scoring: Scoring) -> bool:
    """Whether heads of 64 or 128 numbers of 16 bits, of which all turn or none, attend to all there is, in pages of
    multiples of 16, and can be read 16 bytes at a time."""
    _, kv_heads, page_size, width = paged.key_pages.shape
    bent = (scoring.window, scoring.softcap, scoring.sinks, scoring.alibi_slopes, paged.key_scale, paged.value_scale)
    tensors = [one for one in (q, fresh.k, fresh.v, fresh.cos, fresh.sin) if one is not None]
    return bool(
        overlaps(q.device)
        and why_unavailable() is None
        and q.dtype in (torch.bfloat16, torch.float16)
        and all(one.dtype == q.dtype for one in (*tensors, paged.key_pages, paged.value_pages))
        and width in WIDTHS
        and paged.value_pages.shape[3] == width
        and q.shape[1] // kv_heads <= MOST_HEADS
        and page_size % KEYS == 0
        and fresh.rotary in (0, width)
        and not fresh.interleaved
        and all(one is None for one in bent)
        and all(one.data_ptr() % 16 == 0 and one.stride(0) % WORD == 0 for one in tensors)
    )


def num_shares(pairs: int, max_context: int, blocks: Blocks, processors: int) -> int:
    """Into how many shares contexts are cut at most: so that all blocks run side by side."""
    side_by_side = processors * (RESIDENT_WARPS // blocks.num_warps)
    return max(1, min(side_by_side // pairs, -(-max_context // blocks.least_keys), MOST_SHARES))


def decode(q: Tensor, paged: Paged, scoring: Scoring, out: Tensor, fresh: Fresh, blocks: Blocks) -> None:
    """Fill the rows of `out [T, H, D]` of a step without prompts, and the cache with what it adds."""
    rows, heads, width = q.shape
    kv_heads, page_size = paged.key_pages.shape[1:3]
    group, device, pairs = heads // kv_heads, q.device, rows * kv_heads
    most = paged.page_table.shape[1] * page_size
    shares = num_shares(pairs, most, blocks, multiprocessors(device)) if pairs <= MAX_TILES else 1
    size = pairs * shares * (group + group % 2) if shares > 1 else 0
    parts, tops, totals = (torch.empty(size * each, dtype=torch.float32, device=device) for each in (width, 1, 1))
    warps = min(blocks.num_warps, ROOM // (4 * width * (group + group % 2)))
    numbers = {
        "WIDTH": width, "GROUP": group, "PAGE": page_size, "WARPS": warps, "ROTARY": int(fresh.rotary > 0),
        "HALF": int(q.dtype == torch.float16),
    }  # fmt: skip
    sizes = Sizes(
        q.stride(0), fresh.k.stride(0), fresh.v.stride(0), paged.page_table.stride(0), paged.page_table.shape[1],
        paged.context_len.shape[0], paged.key_pages.shape[0], shares, blocks.least_keys, scoring.scale * log2(e),
    )  # fmt: skip
    step = (paged.query_start, paged.context_len, paged.page_table)
    operands = (
        q, _places(fresh.k, fresh.v, fresh.cos, fresh.sin), fresh.slots, _places(paged.key_pages, paged.value_pages),
        *step, out, parts, tops, totals, counters(device), sizes,
    )  # fmt: skip
    variant = Variant("decode.cu", "decode", tuple(numbers.items()))
    launch(variant, (rows, kv_heads, shares), warps * 32, 0, operands, device)


def _places(*tensors: Tensor | None) -> ctypes.Array[ctypes.c_void_p]:
    """Where they begin, as a structure of the kernel's."""
    return (ctypes.c_void_p * len(tensors))(*(None if one is None else one.data_ptr() for one in tensors))

"""Attention over a paged cache: one kernel writes the cache, one serves single rows, one serves the others.

Nothing here waits for the device, and grids follow from shapes alone, so that a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.kernels.triton.cache import write_cache
from autodeploy.kernels.triton.decode import DecodeConfig, decode
from autodeploy.kernels.triton.paged import Paged, Scoring
from autodeploy.kernels.triton.prefill import PrefillConfig, prefill
from autodeploy.kernels.triton.rows import dense


def _dense_rows(x: Tensor) -> Tensor:
    """x with dense heads and elements; rows may be apart, as the parts of a joined projection are."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def decode_config(width: int, element_size: int) -> DecodeConfig:
    """What fits for heads of a width (padded to a power of two) and elements of a size in bytes."""
    return DecodeConfig(block_keys=64 if width * element_size <= 256 else 32)


def prefill_config(width: int, element_size: int) -> PrefillConfig:
    """What fits for heads of a width (padded to a power of two) and elements of a size in bytes."""
    if width * element_size <= 256:
        return PrefillConfig()
    return PrefillConfig(block_rows=64, block_keys=32, num_warps=4)


def paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    query_start: Tensor,
    context_len: Tensor,
    page_table: Tensor,
    slots: Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """`ops.paged_attention` for heads of up to 256 and a positive scale."""
    q, k, v = _dense_rows(q), _dense_rows(k), _dense_rows(v)
    rows, heads, _ = q.shape
    out = torch.empty((rows, heads, v.shape[2]), dtype=q.dtype, device=q.device)
    if not rows:
        return out
    counters = torch.empty((rows, k.shape[1]), dtype=torch.int32, device=q.device)
    write_cache(k, v, key_pages, value_pages, slots, query_start, out, counters)
    width = max(q.shape[2], v.shape[2])
    paged = Paged(key_pages, value_pages, query_start, context_len, page_table)
    scoring = Scoring(scale, window, softcap, dense(sinks), dense(alibi_slopes))
    mixed = rows > context_len.shape[0]
    config = decode_config(width, q.element_size())
    decode(q, paged, scoring, out, counters, config, by_request=mixed)
    if mixed:
        prefill(q, paged, scoring, out, prefill_config(width, q.element_size()))
    return out

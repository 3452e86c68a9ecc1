"""Attention over a paged cache: one kernel writes the cache, one serves single rows, one serves the others.

Nothing here waits for the device, and grids follow from shapes alone, so that a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.kernels.triton.attention_config import (
    AttentionConfig,
    decode_config,
    hopper_kernels,
    prefill_config,
)
from autodeploy.kernels.triton.cache import write_cache
from autodeploy.kernels.triton.decode import decode
from autodeploy.kernels.triton.paged import Paged, Scoring
from autodeploy.kernels.triton.prefill import prefill
from autodeploy.kernels.triton.rope_cache import rope_and_write_cache
from autodeploy.kernels.triton.rows import dense

MANY_ROWS = 512  # fewer rows leave the large programs of the kernel for Hopper idle
MOSTLY_PROMPTS = 4  # rows for each request: so do mostly single ones


def _dense_rows(x: Tensor) -> Tensor:
    """x with dense heads and elements; rows may be apart, as the parts of a joined projection are."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


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
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    chosen: AttentionConfig | None = None,
) -> Tensor:
    """`ops.paged_attention` for heads of up to 256 and a positive scale, as `chosen` or by rules."""
    q, k, v = _dense_rows(q), _dense_rows(k), _dense_rows(v)
    scales = (dense(key_scale), dense(value_scale))
    paged = Paged(key_pages, value_pages, query_start, context_len, page_table, *scales)
    scoring = Scoring(scale, window, softcap, dense(sinks), dense(alibi_slopes))
    out, counters = _results(q, k, v)
    if q.shape[0]:
        write_cache(k, v, paged, slots, out, counters)
        _attend(q, paged, scoring, out, counters, chosen)
    return out


def rope_paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_pages: Tensor,
    value_pages: Tensor,
    query_start: Tensor,
    context_len: Tensor,
    page_table: Tensor,
    slots: Tensor,
    scale: float,
    interleaved: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
    chosen: AttentionConfig | None = None,
) -> Tensor:
    """`ops.rope_paged_attention` for heads of up to 256 and a positive scale, as `chosen` or by rules."""
    q, k, v = _dense_rows(q), _dense_rows(k), _dense_rows(v)
    scales = (dense(key_scale), dense(value_scale))
    paged = Paged(key_pages, value_pages, query_start, context_len, page_table, *scales)
    scoring = Scoring(scale, window, softcap, dense(sinks), dense(alibi_slopes))
    out, counters = _results(q, k, v)
    if q.shape[0]:
        angles = (cos.contiguous(), sin.contiguous())
        q = rope_and_write_cache(q, k, v, *angles, paged, slots, out, counters, interleaved=interleaved)
        _attend(q, paged, scoring, out, counters, chosen)
    return out


def _results(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the result, and for a counter of each row and key-value head."""
    out = torch.empty((*q.shape[:2], v.shape[2]), dtype=q.dtype, device=q.device)
    return out, torch.empty(k.shape[:2], dtype=torch.int32, device=q.device)


def _attend(
    q: Tensor, paged: Paged, scoring: Scoring, out: Tensor, counters: Tensor, chosen: AttentionConfig | None
) -> None:
    """Fill `out`, once the cache is written; every row may be a decode row unless rows outnumber the requests.

    What is not `chosen` follows rules.
    """
    rows, heads, _ = q.shape
    width = max(q.shape[2], out.shape[2])
    requests = paged.context_len.shape[0]
    mixed = rows > requests
    config = chosen.decode if chosen else None
    config = config or decode_config(width, q.element_size(), counters.numel())
    decode(q, paged, scoring, out, counters, config, by_request=mixed)
    if not mixed:
        return
    cut = chosen.prefill if chosen else None
    prompts = rows >= MOSTLY_PROMPTS * requests and (cut is None if chosen else rows >= MANY_ROWS)
    hopper = hopper_kernels(q.device) if prompts else None
    if hopper is not None and hopper.suits(q, paged, scoring):
        hopper.hopper_prefill(q, paged, scoring, out)
    else:
        prefill(q, paged, scoring, out, cut or prefill_config(width, q.element_size(), rows * heads, q.device))

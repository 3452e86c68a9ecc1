"""Attention over a paged cache: one kernel serves steps without prompts; others write the cache, then serve each kind.

Nothing here waits for the device, and grids follow from shapes alone, so that a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.kernels.cuda import decode as in_cuda
from autodeploy.kernels.triton.attention_config import (
    BLOCKS_OF_FEW,
    FEW_PAIRS,
    AttentionConfig,
    beside_prompts,
    decode_config,
    hopper_kernels,
    prefill_config,
)
from autodeploy.kernels.triton.cache import write_cache
from autodeploy.kernels.triton.decode import decode
from autodeploy.kernels.triton.paged import Fresh, Paged, Scoring
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
    scales = (dense(key_scale), dense(value_scale))
    paged = Paged(key_pages, value_pages, query_start, context_len, page_table, *scales)
    scoring = Scoring(scale, window, softcap, dense(sinks), dense(alibi_slopes))
    return _attend(_dense_rows(q), Fresh(_dense_rows(k), _dense_rows(v), slots), paged, scoring, chosen)


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
    scales = (dense(key_scale), dense(value_scale))
    paged = Paged(key_pages, value_pages, query_start, context_len, page_table, *scales)
    scoring = Scoring(scale, window, softcap, dense(sinks), dense(alibi_slopes))
    fresh = Fresh(_dense_rows(k), _dense_rows(v), slots, cos.contiguous(), sin.contiguous(), interleaved)
    return _attend(_dense_rows(q), fresh, paged, scoring, chosen)


def _attend(q: Tensor, fresh: Fresh, paged: Paged, scoring: Scoring, chosen: AttentionConfig | None) -> Tensor:
    """The result of a step, which has no prompts unless rows outnumber the requests. Without a choice, rules hold."""
    rows, heads, key_width = q.shape
    out = torch.empty((rows, heads, fresh.v.shape[2]), dtype=q.dtype, device=q.device)
    if not rows:
        return out
    width, size = max(key_width, out.shape[2]), q.element_size()
    requests = paged.context_len.shape[0]
    pairs = requests * fresh.k.shape[1]
    if rows <= requests:
        few = BLOCKS_OF_FEW if pairs < FEW_PAIRS else None
        blocks = chosen.blocks if chosen else few
        if blocks and in_cuda.serves(q, fresh, paged, scoring):
            in_cuda.decode(q, paged, scoring, out, fresh, blocks)
            return out
        rule = decode_config(width, size, pairs, q.device)
        decode(q, paged, scoring, out, (chosen and chosen.decode) or rule, fresh)
        return out
    q = _write(q, fresh, paged, out)
    decode(q, paged, scoring, out, beside_prompts(width, size, pairs))
    _attend_prompts(q, paged, scoring, out, chosen)
    return out


def _write(q: Tensor, fresh: Fresh, paged: Paged, out: Tensor) -> Tensor:
    """The queries, turned as keys are on their way to the cache; padding rows of out are zeroed."""
    if fresh.rotary:
        return rope_and_write_cache(q, fresh, paged, out)
    write_cache(fresh, paged, out)
    return q


def _attend_prompts(q: Tensor, paged: Paged, scoring: Scoring, out: Tensor, chosen: AttentionConfig | None) -> None:
    """Fill the rows of requests of several rows."""
    rows, requests = q.shape[0], paged.context_len.shape[0]
    cut = chosen.prefill if chosen else None
    prompts = rows >= MOSTLY_PROMPTS * requests and (cut is None if chosen else rows >= MANY_ROWS)
    hopper = hopper_kernels(q.device) if prompts else None
    if hopper is not None and hopper.suits(q, paged, scoring):
        hopper.hopper_prefill(q, paged, scoring, out)
        return
    width = max(q.shape[2], out.shape[2])
    cut = cut or prefill_config(width, q.element_size(), rows * q.shape[1], q.device)
    prefill(q, paged, scoring, out, cut)

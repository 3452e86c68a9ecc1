"""Attention over a paged cache: one kernel writes the cache, one serves single rows, one serves the others.

Nothing here waits for the device, and grids follow from shapes alone, so that a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
import triton
from torch import Tensor

from autodeploy.kernels.triton.cache import write_cache
from autodeploy.kernels.triton.decode import DecodeConfig, decode
from autodeploy.kernels.triton.launch import multiprocessors, overlaps, shared_memory
from autodeploy.kernels.triton.paged import Paged, Scoring
from autodeploy.kernels.triton.prefill import PrefillConfig, prefill
from autodeploy.kernels.triton.rope_cache import rope_and_write_cache
from autodeploy.kernels.triton.rows import dense

MANY_PAIRS = 256
MANY_ROWS = 512  # fewer rows, or mostly single ones, leave the large programs of the kernel for Hopper idle


def _dense_rows(x: Tensor) -> Tensor:
    """x with dense heads and elements; rows may be apart, as the parts of a joined projection are."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def decode_config(width: int, element_size: int, pairs: int) -> DecodeConfig:
    """What is fast for heads of a width (the larger of keys' and values'), elements of a size in bytes, and a number of
    pairs of row and key-value head: small programs hide more of each other's waiting, and many pairs need no more
    programs for short contexts."""
    if width * element_size > 256:
        return DecodeConfig(block_keys=32)
    return DecodeConfig(num_warps=2, least_keys=256 if pairs >= MANY_PAIRS else 64)


def prefill_config(width: int, element_size: int, query_rows: int, device: torch.device) -> PrefillConfig:
    """What is fast for such heads and a number of pairs of row and query head: large blocks, if there are enough."""
    if width * element_size > 256:
        return PrefillConfig(block_rows=64, block_keys=32, num_warps=4, num_stages=2)
    large = PrefillConfig()
    if shared_memory(device) >= 160 << 10 and query_rows >= large.block_rows * multiprocessors(device):
        return large
    return PrefillConfig(block_rows=64, num_warps=4, num_stages=2)


@cache
def hopper_kernels(device: torch.device) -> ModuleType | None:
    """The module of the kernel that is written for Hopper; None where it cannot run.

    It is written in Gluon, whose interface is not settled: it is imported with the Triton it was written for only.
    """
    if not overlaps(device) or torch.cuda.get_device_capability(device)[0] != 9:
        return None
    return import_module("autodeploy.kernels.triton.hopper_prefill") if triton.__version__.startswith("3.6.") else None


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
) -> Tensor:
    """`ops.paged_attention` for heads of up to 256 and a positive scale."""
    q, k, v = _dense_rows(q), _dense_rows(k), _dense_rows(v)
    scales = (dense(key_scale), dense(value_scale))
    paged = Paged(key_pages, value_pages, query_start, context_len, page_table, *scales)
    scoring = Scoring(scale, window, softcap, dense(sinks), dense(alibi_slopes))
    out, counters = _results(q, k, v)
    if q.shape[0]:
        write_cache(k, v, paged, slots, out, counters)
        _attend(q, paged, scoring, out, counters)
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
) -> Tensor:
    """`ops.rope_paged_attention` for heads of up to 256 and a positive scale."""
    q, k, v = _dense_rows(q), _dense_rows(k), _dense_rows(v)
    scales = (dense(key_scale), dense(value_scale))
    paged = Paged(key_pages, value_pages, query_start, context_len, page_table, *scales)
    scoring = Scoring(scale, window, softcap, dense(sinks), dense(alibi_slopes))
    out, counters = _results(q, k, v)
    if q.shape[0]:
        angles = (cos.contiguous(), sin.contiguous())
        q = rope_and_write_cache(q, k, v, *angles, paged, slots, out, counters, interleaved=interleaved)
        _attend(q, paged, scoring, out, counters)
    return out


def _results(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the result, and for a counter of each row and key-value head."""
    out = torch.empty((*q.shape[:2], v.shape[2]), dtype=q.dtype, device=q.device)
    return out, torch.empty(k.shape[:2], dtype=torch.int32, device=q.device)


def _attend(q: Tensor, paged: Paged, scoring: Scoring, out: Tensor, counters: Tensor) -> None:
    """Fill `out`, once the cache is written; every row may be a decode row unless rows outnumber the requests."""
    rows, heads, _ = q.shape
    width = max(q.shape[2], out.shape[2])
    mixed = rows > paged.context_len.shape[0]
    config = decode_config(width, q.element_size(), counters.numel())
    decode(q, paged, scoring, out, counters, config, by_request=mixed)
    if not mixed:
        return
    hopper = hopper_kernels(q.device) if rows >= max(MANY_ROWS, 4 * paged.context_len.shape[0]) else None
    if hopper is not None and hopper.suits(q, paged, scoring):
        hopper.hopper_prefill(q, paged, scoring, out)
    else:
        prefill(q, paged, scoring, out, prefill_config(width, q.element_size(), rows * heads, q.device))

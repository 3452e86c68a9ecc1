"""Rotating queries and keys and writing the cache in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.narrow import narrow
from autodeploy.kernels.triton.paged import Fresh, Paged
from autodeploy.kernels.triton.rope import pairs, pass_rest, read_angles, rotation_blocks, turn

MANY_ROWS = 1024  # from here on, rows alone occupy a GPU: programs need not share them


@triton.jit(do_not_specialize=["requests"])  # it differs from step to step
def _rope_cache_kernel(
    q,
    k,
    v,
    cos,
    sin,
    rotated,
    key_pages,
    value_pages,
    key_scale,
    value_scale,
    slots,
    query_start,
    out,
    q_stride,
    k_stride,
    v_stride,
    angle_stride,
    requests,
    page_size,
    kv_heads: tl.constexpr,
    group: tl.constexpr,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    rotary: tl.constexpr,
    interleaved: tl.constexpr,
    overlapped: tl.constexpr,
    share: tl.constexpr,
    HEADS: tl.constexpr,  # noqa: N803
    KV_HEADS: tl.constexpr,  # noqa: N803
    VALUE_WIDTH: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    REST: tl.constexpr,  # noqa: N803
) -> None:
    """A share of a row's key-value heads, and the query heads that go with them. A padding row also gets its zeros.

    Everything is asked for before anything is written: a write would keep later reads waiting.
    """
    await_inputs(overlapped)
    shares: tl.constexpr = kv_heads // share
    row = tl.program_id(0).to(tl.int64) // shares
    begin = tl.program_id(0) % shares * share
    lane = tl.arange(0, HEADS)[:, None]
    kv_lane = tl.arange(0, KV_HEADS)[:, None]
    wanted, kv_wanted = lane < share * group, kv_lane < share
    head, kv_head = begin * group + lane, begin + kv_lane
    first, second, paired = pairs(rotary, interleaved, HALF)
    slot = tl.load(slots + row)
    padding = row >= tl.load(query_start + requests)
    angles = read_angles(cos + row * angle_stride, sin + row * angle_stride, first, second, paired)
    from_q = q + row * q_stride + head * key_width
    from_k = k + row * k_stride + kv_head * key_width
    q_first = tl.load(from_q + first, mask=wanted & paired, other=0.0)
    q_second = tl.load(from_q + second, mask=wanted & paired, other=0.0)
    k_first = tl.load(from_k + first, mask=kv_wanted & paired, other=0.0)
    k_second = tl.load(from_k + second, mask=kv_wanted & paired, other=0.0)
    column = tl.arange(0, VALUE_WIDTH)[None, :]
    inside = column < value_width
    values = tl.load(v + row * v_stride + kv_head * value_width + column, mask=kv_wanted & inside, other=0.0)
    key_unit, value_unit = None, None
    if key_scale is not None:
        key_unit = tl.load(key_scale + kv_head, mask=kv_wanted, other=1.0)
    if value_scale is not None:
        value_unit = tl.load(value_scale + kv_head, mask=kv_wanted, other=1.0)

    dtype: tl.constexpr = rotated.dtype.element_ty
    to_q = rotated + (row * kv_heads * group + head) * key_width
    q_first, q_second = turn(q_first, q_second, angles, dtype)
    tl.store(to_q + first, q_first, mask=wanted & paired)
    tl.store(to_q + second, q_second, mask=wanted & paired)
    pass_rest(from_q, to_q, wanted, None, key_width, rotary, REST)
    line = (slot // page_size * kv_heads + kv_head) * page_size + slot % page_size
    to_k = key_pages + line * key_width
    k_first, k_second = turn(k_first, k_second, angles, dtype)
    tl.store(to_k + first, narrow(k_first, key_unit, key_pages.dtype.element_ty), mask=kv_wanted & paired)
    tl.store(to_k + second, narrow(k_second, key_unit, key_pages.dtype.element_ty), mask=kv_wanted & paired)
    pass_rest(from_k, to_k, kv_wanted, key_unit, key_width, rotary, REST)
    values = narrow(values, value_unit, value_pages.dtype.element_ty)
    tl.store(value_pages + line * value_width + column, values, mask=kv_wanted & inside)
    zeros = tl.zeros((HEADS, VALUE_WIDTH), out.dtype.element_ty)
    at = (row * kv_heads * group + head) * value_width + column
    tl.store(out + at, zeros, mask=wanted & inside & padding)


def rope_and_write_cache(
    q: Tensor,
    fresh: Fresh,
    paged: Paged,
    out: Tensor,
) -> Tensor:
    """The rotated queries; rotated keys and values go to their slots. Zeros as `cache.write_cache` writes them."""
    rows, heads, key_width = q.shape
    k, v, cos, sin, rotary = fresh.k, fresh.v, fresh.cos, fresh.sin, fresh.rotary
    assert cos is not None
    kv_heads, value_width = k.shape[1], v.shape[2]
    rotated = torch.empty((rows, heads, key_width), dtype=q.dtype, device=q.device)
    share = kv_heads if rows >= MANY_ROWS else 1
    _rope_cache_kernel[(rows * kv_heads // share,)](
        q,
        k,
        v,
        cos,
        sin,
        rotated,
        paged.key_pages,
        paged.value_pages,
        paged.key_scale,
        paged.value_scale,
        fresh.slots,
        paged.query_start,
        out,
        q.stride(0),
        k.stride(0),
        v.stride(0),
        cos.stride(0),
        paged.context_len.shape[0],
        paged.key_pages.shape[2],
        kv_heads,
        heads // kv_heads,
        key_width,
        value_width,
        rotary,
        fresh.interleaved,
        share=share,
        HEADS=triton.next_power_of_2(heads // kv_heads * share),
        KV_HEADS=triton.next_power_of_2(share),
        VALUE_WIDTH=triton.next_power_of_2(value_width),
        num_warps=2 if share == 1 else 8,
        **rotation_blocks(key_width, rotary),
        **overlap(q.device),
    )
    return rotated

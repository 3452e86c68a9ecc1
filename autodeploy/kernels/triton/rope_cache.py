"""Rotating queries and keys and writing the cache in one kernel."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.narrow import head_scale, narrow
from autodeploy.kernels.triton.paged import Paged
from autodeploy.kernels.triton.rope import rotate, rotation_blocks


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
    counters,
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
    GROUP: tl.constexpr,  # noqa: N803
    VALUE_WIDTH: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
    REST: tl.constexpr,  # noqa: N803
) -> None:
    """A key-value head of one row, and the query heads that share it. A padding row also gets its zeros."""
    await_inputs(overlapped)
    row = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    slot = tl.load(slots + row)
    padding = row >= tl.load(query_start + requests)
    line = (slot // page_size * kv_heads + kv_head) * page_size + slot % page_size
    cos += row * angle_stride
    sin += row * angle_stride
    lane = tl.arange(0, GROUP)[:, None]
    head = kv_head * group + lane
    source = q + row * q_stride + head * key_width
    target = rotated + (row * kv_heads * group + head) * key_width
    rotate(source, target, lane < group, cos, sin, None, key_width, rotary, interleaved, HALF, REST)
    one = tl.arange(0, 1)[:, None]
    source = k + row * k_stride + kv_head * key_width + one
    target = key_pages + line * key_width + one
    scale = head_scale(key_scale, kv_head)
    rotate(source, target, one == 0, cos, sin, scale, key_width, rotary, interleaved, HALF, REST)
    column = tl.arange(0, VALUE_WIDTH)
    inside = column < value_width
    values = tl.load(v + row * v_stride + kv_head * value_width + column, mask=inside)
    values = narrow(values, head_scale(value_scale, kv_head), value_pages.dtype.element_ty)
    tl.store(value_pages + line * value_width + column, values, mask=inside)
    tl.store(counters + row * kv_heads + kv_head, 0)
    zeros = tl.zeros((GROUP, VALUE_WIDTH), out.dtype.element_ty)
    at = (row * kv_heads * group + head) * value_width + column[None, :]
    tl.store(out + at, zeros, mask=(lane < group) & inside[None, :] & padding)


def rope_and_write_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    paged: Paged,
    slots: Tensor,
    out: Tensor,
    counters: Tensor,
    *,
    interleaved: bool,
) -> Tensor:
    """The rotated queries; rotated keys and values go to their slots. Zeros as `cache.write_cache` writes them."""
    rows, heads, key_width = q.shape
    kv_heads, value_width, rotary = k.shape[1], v.shape[2], cos.shape[-1]
    rotated = torch.empty((rows, heads, key_width), dtype=q.dtype, device=q.device)
    _rope_cache_kernel[(rows, kv_heads)](
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
        slots,
        paged.query_start,
        out,
        counters,
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
        interleaved,
        GROUP=triton.next_power_of_2(heads // kv_heads),
        VALUE_WIDTH=triton.next_power_of_2(value_width),
        num_warps=2,
        **rotation_blocks(key_width, rotary),
        **overlap(q.device),
    )
    return rotated

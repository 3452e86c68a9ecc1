"""Writing the keys and values of a step into the paged cache."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.kernels.triton.narrow import narrow
from autodeploy.kernels.triton.paged import Fresh, Paged


@triton.jit(do_not_specialize=["requests"])  # it differs from step to step
def _write_cache_kernel(
    k,
    v,
    key_pages,
    value_pages,
    key_scale,
    value_scale,
    slots,
    query_start,
    out,
    k_stride,
    v_stride,
    out_stride,
    requests,
    page_size,
    kv_heads: tl.constexpr,
    key_width: tl.constexpr,
    value_width: tl.constexpr,
    overlapped: tl.constexpr,
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """Row t goes to slot slots[t]; a padding row also gets its zeros."""
    await_inputs(overlapped)
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row)
    page, offset = slot // page_size, slot % page_size
    for start in tl.static_range(0, kv_heads * key_width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < kv_heads * key_width
        to = ((page * kv_heads + at // key_width) * page_size + offset) * key_width + at % key_width
        scale = None
        if key_scale is not None:
            scale = tl.load(key_scale + at // key_width, mask=inside, other=1.0)
        rows = narrow(tl.load(k + row * k_stride + at, mask=inside), scale, key_pages.dtype.element_ty)
        tl.store(key_pages + to, rows, mask=inside)
    for start in tl.static_range(0, kv_heads * value_width, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < kv_heads * value_width
        to = ((page * kv_heads + at // value_width) * page_size + offset) * value_width + at % value_width
        scale = None
        if value_scale is not None:
            scale = tl.load(value_scale + at // value_width, mask=inside, other=1.0)
        rows = narrow(tl.load(v + row * v_stride + at, mask=inside), scale, value_pages.dtype.element_ty)
        tl.store(value_pages + to, rows, mask=inside)
    if row >= tl.load(query_start + requests):
        for column in range(0, out_stride, BLOCK):
            columns = column + tl.arange(0, BLOCK)
            zeros = tl.zeros((BLOCK,), out.dtype.element_ty)
            tl.store(out + row * out_stride + columns, zeros, mask=columns < out_stride)


def write_cache(
    fresh: Fresh,
    paged: Paged,
    out: Tensor,
) -> None:
    """Write keys and values to their slots as they are; zero the padding rows of out."""
    k, v = fresh.k, fresh.v
    kv_heads, key_width, value_width = k.shape[1], k.shape[2], v.shape[2]
    _write_cache_kernel[(k.shape[0],)](
        k,
        v,
        paged.key_pages,
        paged.value_pages,
        paged.key_scale,
        paged.value_scale,
        fresh.slots,
        paged.query_start,
        out,
        k.stride(0),
        v.stride(0),
        out.stride(0),
        paged.context_len.shape[0],
        paged.key_pages.shape[2],
        kv_heads,
        key_width,
        value_width,
        BLOCK=min(triton.next_power_of_2(kv_heads * max(key_width, value_width)), 1024),
        **overlap(k.device),
    )

"""Random steps to time attention with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autodeploy.kernels.attention import Attention
from autodeploy.tuning.attention import op_of
from autodeploy.tuning.operands import Operands

PAGE_SIZE = 16
"""Of the pages that attention is measured with, which the runtime has unless it is told otherwise."""
TABLE_KEYS = 8192
"""How many keys a row of the page table has room for: more rows would not be cut into more shares."""
UNIT = {"int8": 0.03, "float8_e4m3fn": 0.01}
"""The scale of cached numbers of 8 bits."""


def random_step(attention: Attention, rows: int, context: int, copies: int, device: str = "cuda") -> list[Operands]:
    """The arguments of its operator for as many caches, and the same tables.

    Decode has as many requests as rows, each with a context of `context` keys, the row's own included. Of a prompt all
    rows are of one request, the last of its context.
    """
    new = rows if attention.prompt else 1
    requests = rows // new
    pages_each = -(-context // PAGE_SIZE)
    order = torch.randperm(requests * pages_each, dtype=torch.int32, device=device).view(requests, pages_each)
    table = torch.zeros(requests, max(pages_each, TABLE_KEYS // PAGE_SIZE), dtype=torch.int32, device=device)
    table[:, :pages_each] = order
    query_start = torch.arange(requests + 1, dtype=torch.int32, device=device) * new
    context_len = torch.full((requests,), context, dtype=torch.int32, device=device)
    positions = torch.arange(context - new, context, device=device)
    slots = (table[:, positions // PAGE_SIZE].long() * PAGE_SIZE + positions % PAGE_SIZE).flatten()
    step = (query_start, context_len, table, slots)
    rest = (*step, attention.key_width**-0.5, *_options(attention, device))
    rows_of = _rows(attention, rows, device)
    return [(*rows_of, *_pages(attention, requests * pages_each, device), *rest) for _ in range(copies)]


def expected_step(attention: Attention, operands: Operands) -> Tensor:
    """What the reference makes of operands, in float32 as far as it can be; it leaves the pages as they are."""
    wide = [_wide(one) if isinstance(one, Tensor) else one for one in operands]
    return op_of(attention)(*wide)  # type: ignore[no-any-return]


def _wide(x: Tensor) -> Tensor:
    """A copy in float32, unless x is of 8 bits or counts something."""
    return x.to(torch.float32 if x.is_floating_point() and x.dtype.itemsize > 1 else x.dtype, copy=True)


def _rows(attention: Attention, rows: int, device: str) -> tuple[Tensor, ...]:
    """Queries, keys and values, and the angles where there are any."""

    def draw(*size: int) -> Tensor:
        return torch.randn(size, dtype=attention.torch_dtype, device=device)

    q = draw(rows, attention.heads, attention.key_width)
    k = draw(rows, attention.kv_heads, attention.key_width)
    v = draw(rows, attention.kv_heads, attention.value_width)
    if not attention.rotary:
        return q, k, v
    angles = draw(rows, attention.rotary)
    return q, k, v, angles.cos(), angles.sin()


def _pages(attention: Attention, count: int, device: str) -> tuple[Tensor, Tensor]:
    """A cache of random numbers, of usual size once they are scaled."""
    keys, values = (
        torch.randn(count, attention.kv_heads, PAGE_SIZE, width, dtype=torch.bfloat16, device=device)
        for width in (attention.key_width, attention.value_width)
    )
    unit = UNIT[attention.cache] if attention.has_scales else 1.0
    return (keys / unit).to(attention.cache_dtype), (values / unit).to(attention.cache_dtype)


def _options(attention: Attention, device: str) -> tuple[Any, ...]:
    """What follows the scale in the operator's schema."""
    sinks = torch.randn(attention.heads, dtype=attention.torch_dtype, device=device) if attention.has_sinks else None
    slopes = torch.rand(attention.heads, device=device) / 8 if attention.has_slopes else None
    unit = torch.full((attention.kv_heads,), UNIT[attention.cache], device=device) if attention.has_scales else None
    turned = (attention.interleaved,) if attention.rotary else ()
    return (*turned, attention.window or None, attention.softcap or None, sinks, slopes, unit, unit)

"""Rotary position embedding and attention over a paged cache as one operator: keys are rotated on their way there."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.attention import paged_attention
from autodeploy.ops.op import CanonicalOp
from autodeploy.ops.rope import rope


def _rope_paged_attention(
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
    q, k = (rope.reference(x, cos, sin, interleaved) for x in (q, k))
    pages = (key_pages, value_pages)
    step = (query_start, context_len, page_table, slots)
    scoring = (scale, window, softcap, sinks, alibi_slopes)
    out: Tensor = paged_attention.reference(q, k, v, *pages, *step, *scoring, key_scale, value_scale)
    return out


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
    return torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=q.device)


rope_paged_attention = CanonicalOp(
    "rope_paged_attention(Tensor q, Tensor k, Tensor v, Tensor cos, Tensor sin, Tensor(a!) key_pages,"
    " Tensor(b!) value_pages, Tensor query_start, Tensor context_len, Tensor page_table, Tensor slots, float scale,"
    " bool interleaved=False, int? window=None, float? softcap=None, Tensor? sinks=None, Tensor? alibi_slopes=None,"
    " Tensor? key_scale=None, Tensor? value_scale=None) -> Tensor",
    _rope_paged_attention,
    _fake,
    reference_waits=True,
)
"""`paged_attention` of `rope(q)` and `rope(k)`, both by `cos, sin [T, R]`. The cache gets the rotated keys."""

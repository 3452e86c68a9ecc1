"""Causal attention over a whole row of tokens, and over a paged cache."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp


def _scores(q: Tensor, k: Tensor, visible: Tensor, scale: float, softcap: float | None, sinks: Tensor | None) -> Tensor:
    """Attention probabilities `[H, Tq, Tk]` in float32 of `q [Tq, H, D]` over `k [Tk, Hk, D]`."""
    group = q.shape[1] // k.shape[1]
    scores = torch.einsum("qhd,khd->hqk", q.float(), k.float().repeat_interleave(group, dim=1)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~visible, float("-inf"))
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    sink = sinks.float().reshape(-1, 1, 1).expand(-1, scores.shape[1], 1)
    return torch.softmax(torch.cat((scores, sink), dim=-1), dim=-1)[..., :-1]


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention of the last Tq of Tk positions: `[Tq, H, Dv]` in q's dtype."""
    num_queries, num_keys = q.shape[0], k.shape[0]
    query_pos = torch.arange(num_keys - num_queries, num_keys, device=q.device).unsqueeze(1)
    key_pos = torch.arange(num_keys, device=q.device).unsqueeze(0)
    visible = key_pos <= query_pos
    if window is not None:
        visible = visible & (key_pos > query_pos - window)
    probabilities = _scores(q, k, visible, scale, softcap, sinks)
    values = v.float().repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    return torch.einsum("hqk,khd->qhd", probabilities, values).to(q.dtype)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    rows = [_attend(q[i], k[i], v[i], scale, window, softcap, sinks) for i in range(q.shape[0])]
    return torch.stack(rows)


def _fake_attention(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
    return q.new_empty((*q.shape[:-1], v.shape[-1]))


attention = CanonicalOp(
    "attention(Tensor q, Tensor k, Tensor v, float scale, int? window=None, float? softcap=None, Tensor? sinks=None)"
    " -> Tensor",
    _attention,
    _fake_attention,
)
"""Causal attention of `q [B, T, H, D]` over `k [B, T, Hk, D]`, `v [B, T, Hk, Dv]` -> `[B, T, H, Dv]`.

H is a multiple of Hk. A query sees itself and the tokens before it, the last `window` of them when given (itself
counted). `softcap` bounds the scaled scores by `softcap * tanh(score / softcap)` (Gemma 2). `sinks [H]` are scores of
an invisible extra key with no value (gpt-oss). Scores and their softmax are in float32; a kernel may round its
weights to v's dtype before they meet the values, as a matmul of that dtype does.
"""


def _paged_attention(
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
) -> Tensor:
    page_size = key_pages.shape[2]
    key_pages[slots // page_size, :, slots % page_size] = k
    value_pages[slots // page_size, :, slots % page_size] = v
    out = q.new_zeros((*q.shape[:-1], v.shape[-1]))
    starts, lengths = query_start.tolist(), context_len.tolist()
    for request, length in enumerate(lengths):
        first, last = starts[request], starts[request + 1]
        pages = page_table[request, : -(-length // page_size)].long()
        keys = key_pages[pages].transpose(1, 2).flatten(0, 1)[:length]
        values = value_pages[pages].transpose(1, 2).flatten(0, 1)[:length]
        out[first:last] = _attend(q[first:last], keys, values, scale, window, softcap, sinks)
    return out


paged_attention = CanonicalOp(
    "paged_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) key_pages, Tensor(b!) value_pages, Tensor query_start,"
    " Tensor context_len, Tensor page_table, Tensor slots, float scale, int? window=None, float? softcap=None,"
    " Tensor? sinks=None) -> Tensor",
    _paged_attention,
    _fake_attention,
)
"""Write the step's keys and values into the cache, then attend over it.

A step flattens the new tokens of B requests into T rows: `q [T, H, D]`, `k [T, Hk, D]`, `v [T, Hk, Dv]` become
`[T, H, Dv]`. `key_pages [P, Hk, page_size, D]` and `value_pages [P, Hk, page_size, Dv]` hold the cache and are written
in place: row t goes to slot `slots[t]` (int64; page `slot // page_size`, offset `slot % page_size`). Rows
`query_start[b]` to `query_start[b + 1]` (int32 `[B + 1]`) are the last tokens of request b, whose cache then holds
`context_len[b]` tokens (int32 `[B]`) in the pages `page_table[b]` (int32 `[B, max_pages]`, in order; entries past the
context are ignored). Masking, soft cap and sinks are as in `attention`. Rows past `query_start[B]` are padding: they
write their slots, see nothing, and give zeros (Kwon et al., 2023).
"""

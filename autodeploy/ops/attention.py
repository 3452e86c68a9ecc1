"""Attention over a whole row of tokens, and over a paged cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autodeploy.ops.op import CanonicalOp


@dataclass(frozen=True)
class _Options:
    """What an attention does to its scores: the arguments of the operators, by their names there."""

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    alibi_slopes: Tensor | None = None
    causal: bool = True


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, options: _Options) -> Tensor:
    """Attention of `q [Tq, H, D]`, when causal the last of Tk positions: `[Tq, H, Dv]` in q's dtype."""
    probabilities = _probabilities(_scores(q, k, bias, options), options.sinks)
    values = v.float().repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    return torch.einsum("hqk,khd->qhd", probabilities, values).to(q.dtype)


def _scores(q: Tensor, k: Tensor, bias: Tensor | None, options: _Options) -> Tensor:
    """Scores `[H, Tq, Tk]` in float32, minus infinity where a query does not see a key."""
    keys = k.float().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = torch.einsum("qhd,khd->hqk", q.float(), keys) * options.scale
    if options.softcap is not None:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    distance = _distance(q.shape[0], k.shape[0], q.device)
    if options.alibi_slopes is not None:
        scores = scores - options.alibi_slopes.float().reshape(-1, 1, 1) * distance
    if bias is not None:
        scores = scores.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else scores + bias.float()
    if options.causal:
        scores = scores.masked_fill(distance < 0, float("-inf"))
    if options.window is not None:
        scores = scores.masked_fill(distance >= options.window, float("-inf"))
    return scores


def _distance(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """How many positions each key lies before each query: `[Tq, Tk]`."""
    query_pos = torch.arange(num_keys - num_queries, num_keys, device=device).unsqueeze(1)
    return query_pos - torch.arange(num_keys, device=device)


def _probabilities(scores: Tensor, sinks: Tensor | None) -> Tensor:
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    sink = sinks.float().reshape(-1, 1, 1).expand(-1, scores.shape[1], 1)
    return torch.softmax(torch.cat((scores, sink), dim=-1), dim=-1)[..., :-1]


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    causal: bool = True,
    bias: Tensor | None = None,
) -> Tensor:
    options = _Options(scale, window, softcap, sinks, alibi_slopes, causal)
    wide = None if bias is None else bias.expand(q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    rows = [_attend(q[i], k[i], v[i], None if wide is None else wide[i], options) for i in range(q.shape[0])]
    return torch.stack(rows)


def _fake_attention(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
    return q.new_empty((*q.shape[:-1], v.shape[-1]))


attention = CanonicalOp(
    "attention(Tensor q, Tensor k, Tensor v, float scale, int? window=None, float? softcap=None, Tensor? sinks=None,"
    " Tensor? alibi_slopes=None, bool causal=True, Tensor? bias=None) -> Tensor",
    _attention,
    _fake_attention,
)
"""Attention of `q [B, Tq, H, D]` over `k [B, Tk, Hk, D]`, `v [B, Tk, Hk, Dv]` -> `[B, Tq, H, Dv]`.

H is a multiple of Hk. When `causal`, the queries are the last Tq of the Tk positions, and each sees itself and what
comes before it. A `window` leaves the keys fewer than that many positions before the query (itself counted). What
happens to a score `q @ k * scale`, in this order:

* `softcap` bounds it by `softcap * tanh(score / softcap)` (Gemma 2);
* `alibi_slopes [H]` float32 add `slope * (key_pos - query_pos)` (Press et al., 2022);
* `bias`, which broadcasts to `[B, H, Tq, Tk]`, is added or, when it is boolean, hides the keys where it is False. A row
  that sees nothing has no defined result.

`sinks [H]` are scores of an invisible extra key with no value (gpt-oss). Scores and their softmax are in float32; a
kernel may round its weights to v's dtype before they meet the values, as a matmul of that dtype does.
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
    alibi_slopes: Tensor | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> Tensor:
    options = _Options(scale, window, softcap, sinks, alibi_slopes)
    page_size = key_pages.shape[2]
    key_pages[slots // page_size, :, slots % page_size] = _stored(k, key_scale, key_pages.dtype)
    value_pages[slots // page_size, :, slots % page_size] = _stored(v, value_scale, value_pages.dtype)
    out = q.new_zeros((*q.shape[:-1], v.shape[-1]))
    starts, lengths = query_start.tolist(), context_len.tolist()
    for request, length in enumerate(lengths):
        first, last = starts[request], starts[request + 1]
        pages = page_table[request, : -(-length // page_size)].long()
        keys = _read(key_pages[pages], key_scale)[:length]
        values = _read(value_pages[pages], value_scale)[:length]
        out[first:last] = _attend(q[first:last], keys, values, None, options)
    return out


def _stored(rows: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """What the cache holds of `rows [T, Hk, D]`: divided by the scale of each head, rounded and saturated."""
    scaled = rows if scale is None else rows.float() / scale.unsqueeze(-1)
    if dtype == torch.int8:
        return scaled.round().clamp(-127, 127).to(dtype)
    return scaled.clamp(-448, 448).to(dtype) if dtype == torch.float8_e4m3fn else scaled.to(dtype)


def _read(pages: Tensor, scale: Tensor | None) -> Tensor:
    """The rows `[T, Hk, D]` of pages `[P, Hk, page_size, D]`; in float32 where they are scaled."""
    rows = pages.transpose(1, 2).flatten(0, 1)
    return rows if scale is None else rows.float() * scale.unsqueeze(-1)


paged_attention = CanonicalOp(
    "paged_attention(Tensor q, Tensor k, Tensor v, Tensor(a!) key_pages, Tensor(b!) value_pages, Tensor query_start,"
    " Tensor context_len, Tensor page_table, Tensor slots, float scale, int? window=None, float? softcap=None,"
    " Tensor? sinks=None, Tensor? alibi_slopes=None, Tensor? key_scale=None, Tensor? value_scale=None) -> Tensor",
    _paged_attention,
    _fake_attention,
    reference_waits=True,
)
"""Write the step's keys and values into the cache, then attend over it.

A step flattens the new tokens of B requests into T rows: `q [T, H, D]`, `k [T, Hk, D]`, `v [T, Hk, Dv]` become
`[T, H, Dv]`. `key_pages [P, Hk, page_size, D]` and `value_pages [P, Hk, page_size, Dv]` hold the cache and are written
in place: row t goes to slot `slots[t]` (int64; page `slot // page_size`, offset `slot % page_size`). Rows
`query_start[b]` to `query_start[b + 1]` (int32 `[B + 1]`) are the last tokens of request b, whose cache then holds
`context_len[b]` tokens (int32 `[B]`) in the pages `page_table[b]` (int32 `[B, max_pages]`, in order; entries past the
context are ignored). Window, soft cap, sinks and ALiBi are as in causal `attention`. Rows past `query_start[B]` are
padding: they write their slots, see nothing, and give zeros (Kwon et al., 2023).

Pages may be float8_e4m3fn or int8 instead of q's dtype. They then hold `k / key_scale` and `v / value_scale`, rounded
to the nearest and saturated at 448 or 127; the scales are float32 `[Hk]`, and 1 where there are none.
"""

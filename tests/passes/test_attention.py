"""Attention as people write it: found, its mask named, and its numbers kept; or left alone, with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional

from autodeploy.errors import UnsupportedError
from autodeploy.graph.nodes import arguments, calls_of
from autodeploy.passes.canonicalize_attention import CanonicalizeAttention
from autodeploy.passes.canonicalize_heads import CanonicalizeHeads
from autodeploy.passes.canonicalize_matmuls import CanonicalizeMatmuls
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.passes.functionalize import Functionalize
from autodeploy.passes.name_masks import NameMasks
from autodeploy.passes.page_attention import PageAttention
from autodeploy.weights import MemorySource
from tests.graphs import run

HEADS, KV_HEADS, WIDTH, LONGEST = 4, 2, 8, 64
PASSES = (
    *(Functionalize(), CleanGraph(), CanonicalizeMatmuls(), CleanGraph()),
    *(CanonicalizeAttention(), CleanGraph(), CanonicalizeHeads(), NameMasks()),
)
Attend = Callable[..., Tensor]
LOW = torch.finfo(torch.float32).min


class Layer(nn.Module):
    """Projections around an attention `attend(module, q, k, v)` of heads before tokens."""

    lower: Tensor
    recent: Tensor
    slopes: Tensor

    def __init__(self, attend: Attend, kv_heads: int = HEADS) -> None:
        super().__init__()
        self.attend, self.kv_heads = attend, kv_heads
        self.qkv = nn.Linear(16, (HEADS + 2 * kv_heads) * WIDTH)
        self.out = nn.Linear(HEADS * WIDTH, 16)
        self.sinks = nn.Parameter(torch.randn(HEADS))
        self.biases = nn.Embedding(2 * LONGEST, HEADS)
        self.register_buffer("lower", torch.tril(torch.ones(LONGEST, LONGEST)))
        lower = torch.tril(torch.ones(LONGEST, LONGEST, dtype=torch.bool))
        self.register_buffer("recent", lower ^ torch.tril(lower, -5), persistent=False)
        self.register_buffer("slopes", torch.tensor([0.5, 0.25, 0.125, 0.0625]))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).view(x.shape[0], x.shape[1], -1, WIDTH).transpose(1, 2)
        q, k, v = heads.split((HEADS, self.kv_heads, self.kv_heads), dim=1)
        return self.out(self.attend(self, q, k, v).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))  # type: ignore[no-any-return]


def visible(num: int) -> Tensor:
    return torch.arange(num)[None, :] <= torch.arange(num)[:, None]


def sdpa_causal(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def sdpa_masked(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=visible(q.shape[2]), scale=0.2)


def sdpa_window(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    at = torch.arange(q.shape[2])
    mask = (at[:, None] >= at) & (at[:, None] - at < 7)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def sdpa_grouped(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def tril_buffer(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) * (1.0 / math.sqrt(WIDTH))
    scores = scores.masked_fill(m.lower[: q.shape[2], : q.shape[2]] == 0, float("-inf"))
    return functional.dropout(functional.softmax(scores, dim=-1), 0.1, m.training) @ v


def triu_added(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = torch.full((q.shape[2], q.shape[2]), float("-inf")).triu(1)
    return torch.softmax((q / 2.0) @ k.mT / math.sqrt(WIDTH) + mask, -1, dtype=torch.float32).type_as(q) @ v


def chosen_from_a_table(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.permute(0, 1, 3, 2)) / math.sqrt(WIDTH)
    mask = m.recent[: q.shape[2], : k.shape[2]]
    return torch.matmul(torch.where(mask, scores, torch.full((), LOW)).softmax(3), v)


def with_alibi(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    at = torch.arange(q.shape[2])
    bias = m.slopes[:, None, None] * (at - at[:, None])
    scores = (q @ k.transpose(2, 3)) / math.sqrt(WIDTH) + bias
    return scores.masked_fill(~visible(q.shape[2]), -1e9).softmax(-1) @ v


def alibi_of_keys_that_is_scaled(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    keys = m.slopes[None, :, None, None] * torch.arange(q.shape[2]).view(1, 1, 1, -1)
    scores = (q @ k.transpose(2, 3) + keys) * 0.25
    return (scores + torch.where(visible(q.shape[2]), 0.0, LOW)).softmax(-1) @ v


def batched(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = [x.reshape(-1, x.shape[2], WIDTH) for x in (q, k, v)]
    scores = torch.bmm(rows[0], rows[1].transpose(1, 2)).view(q.shape[0], HEADS, q.shape[2], -1)
    scores = torch.max(scores * 0.3 + torch.where(visible(q.shape[2]), 0.0, LOW), torch.tensor(LOW))
    weights = scores.view(-1, q.shape[2], q.shape[2]).softmax(-1)
    return torch.bmm(weights, rows[2]).view(q.shape)


def repeated(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
    return (q @ k.mT).masked_fill(~visible(q.shape[2]), float("-inf")).softmax(-1) @ v


def expanded(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, heads, num, width = k.shape
    wide = (x[:, :, None].expand(batch, heads, HEADS // heads, num, width) for x in (k, v))
    k, v = (x.reshape(batch, HEADS, num, width) for x in wide)
    return sdpa_causal(m, q, k, v)


def capped(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.tanh(q @ k.mT * 0.3 / 1.5) * 1.5
    return (scores + torch.where(visible(q.shape[2]), 0.0, LOW)).softmax(-1) @ v


def with_sinks(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT * 0.3 + torch.where(visible(q.shape[2]), 0.0, LOW)
    column = m.sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], -1)
    scores = torch.cat([scores, column], dim=-1)
    weights: Tensor = torch.softmax(scores - scores.max(dim=-1, keepdim=True).values, -1)
    return weights[..., :-1] @ v


def to_all(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights: Tensor = ((q * WIDTH**-0.5) @ k.mT).softmax(-1)
    return weights @ v


def with_a_learned_bias(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    at = torch.arange(q.shape[2])
    bias: Tensor = m.biases(at - at[:, None] + LONGEST).permute(2, 0, 1)[None]
    return (q @ k.mT + bias).softmax(-1) @ v


def with_einsum(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * 0.3
    weights = scores.masked_fill(~visible(q.shape[2]), float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def with_einsum_of_rows(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.3
    weights = scores.masked_fill(~visible(q.shape[1]), float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).transpose(1, 2)


CAUSAL: Mapping[str, Any] = {"causal": True, "bias": None, "window": None, "alibi_slopes": None}
FOUND: Mapping[Attend, Mapping[str, Any]] = {
    sdpa_causal: CAUSAL,
    sdpa_masked: CAUSAL,
    sdpa_window: {**CAUSAL, "window": 7},
    sdpa_grouped: CAUSAL,
    tril_buffer: CAUSAL,
    triu_added: CAUSAL,
    chosen_from_a_table: {**CAUSAL, "window": 5},
    with_alibi: {"causal": True, "bias": None, "window": None},
    alibi_of_keys_that_is_scaled: {"causal": True, "bias": None, "window": None},
    batched: CAUSAL,
    repeated: CAUSAL,
    expanded: CAUSAL,
    capped: {**CAUSAL, "softcap": 1.5},
    with_sinks: CAUSAL,
    to_all: {**CAUSAL, "causal": False},
    with_a_learned_bias: {"causal": False},
    with_einsum: CAUSAL,
    with_einsum_of_rows: CAUSAL,
}
SCALES: Mapping[Attend, float] = {
    sdpa_masked: 0.2,
    alibi_of_keys_that_is_scaled: 0.25,
    repeated: 1.0,
    with_a_learned_bias: 1.0,
    **dict.fromkeys((batched, capped, with_sinks, with_einsum, with_einsum_of_rows), 0.3),
}
"""The scale of the canonical operator, where it is not the usual one."""
GROUPED = (sdpa_grouped, repeated, expanded)


class Subject:
    """A layer as a graph, with the passes that find attention run over it."""

    def __init__(self, attend: Attend, kv_heads: int = HEADS) -> None:
        torch.manual_seed(0)
        self.layer = Layer(attend, kv_heads)
        passed = run(PASSES, self.layer, torch.randn(1, 6, 16), dim=1)
        self.graph_module, self.context = passed.graph_module, passed.context
        self.misses = [miss for report in passed.reports for miss in report.misses]

    @property
    def attentions(self) -> list[Node]:
        return calls_of(self.graph_module.graph, torch.ops.autodeploy.attention.default)

    def error(self, num_tokens: int) -> float:
        x = torch.randn(1, num_tokens, 16)
        with torch.no_grad():
            out, expected = self.graph_module(x), self.layer(x)
        return float((out - expected).norm() / expected.norm())


@pytest.mark.parametrize("attend", FOUND, ids=lambda attend: attend.__name__)
def test_attention_is_found_and_computes_the_same(attend: Attend) -> None:
    subject = Subject(attend, KV_HEADS if attend in GROUPED else HEADS)
    (attention,) = subject.attentions
    named = arguments(attention)
    assert {name: named[name] for name in FOUND[attend]} == FOUND[attend]
    assert named["k"].meta["val"].shape[2] == (KV_HEADS if attend in GROUPED else HEADS)
    assert named["scale"] == pytest.approx(SCALES.get(attend, WIDTH**-0.5))
    for num_tokens in (1, 2, 13, 40):
        assert subject.error(num_tokens) <= 2e-6
    left = {str(node.target) for node in subject.graph_module.graph.nodes}
    assert not left & {"aten.softmax.int", "aten.matmul.default", "aten.bmm.default", "aten.einsum.default"}


@pytest.mark.parametrize(
    ("attend", "slopes"),
    [(with_alibi, [0.5, 0.25, 0.125, 0.0625]), (alibi_of_keys_that_is_scaled, [0.125, 0.0625, 0.03125, 0.015625])],
)
def test_slopes_become_a_weight(attend: Attend, slopes: list[float]) -> None:
    subject = Subject(attend)
    weight = arguments(subject.attentions[0])["alibi_slopes"]
    values = subject.context.weights.read(MemorySource({}))[weight.target]
    torch.testing.assert_close(values, torch.tensor(slopes))


def over_queries(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(2) @ v


def by_learned_temperature(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * m.sinks[:, None, None]).softmax(-1) @ v


def used_twice(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT).softmax(-1)
    return weights @ v + weights.sum(-1, keepdim=True)


NEAR: Mapping[Attend, str] = {
    over_queries: "the softmax is over dimension 2, not over the keys",
    by_learned_temperature: "is no number",
    used_twice: "also used outside",
}


@pytest.mark.parametrize("attend", NEAR, ids=lambda attend: attend.__name__)
def test_what_is_not_quite_attention_is_left_alone(attend: Attend) -> None:
    subject = Subject(attend)
    assert subject.attentions == []
    assert any(NEAR[attend] in miss.reason for miss in subject.misses)
    assert subject.error(13) <= 2e-6


def reversed_mask(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=visible(q.shape[2]).T)


def strict_mask(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = visible(q.shape[2]).logical_not().T.index_fill(0, torch.tensor([0]), True)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def of_the_tokens(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = visible(q.shape[2]) & (v.sum(-1) > -9).unsqueeze(2)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def chunked(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    at = torch.arange(q.shape[2]) // 4
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=visible(q.shape[2]) & (at[:, None] == at))


def curved(m: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    at = torch.arange(q.shape[2])
    bias = torch.where(visible(q.shape[2]), -((at[:, None] - at) ** 2) * 0.1, LOW)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)


UNNAMED: Mapping[Attend, str] = {
    reversed_mask: "it hides other keys",
    strict_mask: "it hides other keys",
    chunked: "it hides other keys",
    of_the_tokens: "it depends on the values of x",
    curved: "not a line",
    with_a_learned_bias: "it depends on the weight biases.weight",
}


@pytest.mark.parametrize("attend", UNNAMED, ids=lambda attend: attend.__name__)
def test_a_mask_without_a_name_stays_a_bias(attend: Attend) -> None:
    subject = Subject(attend)
    (attention,) = subject.attentions
    assert arguments(attention)["bias"] is not None
    assert any(UNNAMED[attend] in miss.reason for miss in subject.misses)
    assert subject.error(13) <= 2e-6
    with pytest.raises(UnsupportedError, match="only causal attention can be paged"):
        PageAttention().run(subject.graph_module, subject.context)


def test_attention_to_later_tokens_cannot_be_paged() -> None:
    subject = Subject(to_all)
    with pytest.raises(UnsupportedError, match="sees later tokens; only causal attention can be paged"):
        PageAttention().run(subject.graph_module, subject.context)

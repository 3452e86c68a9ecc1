"""The reference of attention against PyTorch's own, which is another way to write it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from autodeploy import ops

TOKENS, HEADS, WIDTH = 7, 4, 8
AT = torch.arange(TOKENS)
CAUSAL = AT[:, None] >= AT
SLOPES = torch.tensor([0.5, 0.25, 0.125, 1.0])


def draw(heads: int = HEADS, tokens: int = TOKENS) -> Tensor:
    return torch.randn(2, tokens, heads, WIDTH)


def expected(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3, enable_gqa=True).transpose(1, 2)


def hidden(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape).masked_fill(~visible, float("-inf"))


BIAS = torch.randn(HEADS, TOKENS, TOKENS, generator=torch.manual_seed(0))
OPTIONS: list[tuple[dict[str, Any], Tensor | None]] = [
    ({}, CAUSAL),
    ({"window": 3}, CAUSAL & (AT[:, None] - AT < 3)),
    ({"causal": False}, None),
    ({"alibi_slopes": SLOPES}, hidden(CAUSAL) + SLOPES[:, None, None] * (AT - AT[:, None])),
    ({"causal": False, "bias": BIAS}, BIAS),
    ({"bias": BIAS[:1]}, hidden(CAUSAL) + BIAS[:1]),
    ({"causal": False, "bias": CAUSAL.t()}, CAUSAL.t()),
    ({"bias": AT % 2 == 0}, CAUSAL & (AT % 2 == 0)),
]


@pytest.mark.parametrize(("options", "mask"), OPTIONS)
def test_masks_and_biases(options: dict[str, Any], mask: Tensor | None) -> None:
    q, k, v = draw(), draw(2), draw(2)
    torch.testing.assert_close(ops.attention.reference(q, k, v, 0.3, **options), expected(q, k, v, mask))


def test_queries_are_the_last_positions_when_causal() -> None:
    q, k, v = draw(tokens=3), draw(2), draw(2)
    torch.testing.assert_close(ops.attention.reference(q, k, v, 0.3), expected(q, k, v, CAUSAL[-3:]))


def test_as_many_keys_as_there_are_when_not_causal() -> None:
    q, k, v = draw(tokens=9), draw(2), draw(2)
    torch.testing.assert_close(ops.attention.reference(q, k, v, 0.3, causal=False), expected(q, k, v, None))


def test_the_soft_cap_comes_before_the_bias() -> None:
    q, k, v = draw(), draw(), draw()
    scores = 5 * torch.tanh(torch.einsum("bqhd,bkhd->bhqk", q, k) * 0.3 / 5)
    wanted = torch.einsum("bhqk,bkhd->bqhd", (scores + BIAS).softmax(-1), v)
    got = ops.attention.reference(q, k, v, 0.3, softcap=5.0, causal=False, bias=BIAS)
    torch.testing.assert_close(got, wanted)


def paged(cached: torch.dtype, scales: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
    """The attention of seven rows of one request over its own pages, their keys, and what the cache holds of them."""
    q, k, v = (draw(heads)[0] for heads in (HEADS, 2, 2))
    pages = [torch.zeros(2, 2, 4, WIDTH, dtype=cached) for _ in range(2)]
    step = [torch.tensor(one, dtype=torch.int32) for one in ([0, TOKENS], [TOKENS], [[1, 0]])]
    slots = torch.tensor([4, 5, 6, 7, 0, 1, 2])
    out = ops.paged_attention.reference(q, k, v, *pages, *step, slots, 0.3, key_scale=scales[0], value_scale=scales[1])
    held = [page[[1, 0]].transpose(1, 2).flatten(0, 1)[:TOKENS] for page in pages]
    wide = [
        one.double() if scale is None else one.double() * scale.double()[:, None]
        for one, scale in zip(held, scales, strict=True)
    ]
    wanted = expected(q.double()[None], wide[0][None], wide[1][None], CAUSAL)[0]
    assert float((out.double() - wanted).norm() / wanted.norm()) < 1e-6
    return k, held[0], wide[0]


def test_a_cache_in_fp8_needs_no_scale() -> None:
    key, held, _ = paged(torch.float8_e4m3fn, (None, None))
    assert torch.equal(held.float(), key.to(torch.float8_e4m3fn).float())


@pytest.mark.parametrize("cached", [torch.float8_e4m3fn, torch.int8])
def test_a_scaled_cache_rounds_to_the_nearest_and_saturates(cached: torch.dtype) -> None:
    most = 127 if cached == torch.int8 else 448
    scale = torch.tensor([3.0 / most, 0.1 / most])
    key, held, read = paged(cached, (scale, scale * 2))
    assert held[:, 1].float().abs().max() == most
    fits = key.abs() <= 0.99 * scale[:, None] * most
    assert ((read - key)[fits].norm() / key[fits].norm()) < 0.04
    assert (read.abs() <= scale[:, None] * most * 1.001).all()

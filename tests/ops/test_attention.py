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

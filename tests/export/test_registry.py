from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import masking_utils

from autodeploy.errors import UnsupportedError
from autodeploy.export import registry
from autodeploy.export.registry import Mask


class Layer(nn.Module):
    is_causal = True


def attend(mask: Any = Mask(), **options: Any) -> Tensor:  # noqa: B008 (a frozen value)
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    return registry._attention(options.pop("module", Layer()), query, key, key, mask, **options)[0]


def expected(window: int | None = None) -> Tensor:
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    at = torch.arange(6)
    visible = at[:, None] >= at
    if window is not None:
        visible &= at[:, None] - at < window
    out = nn.functional.scaled_dot_product_attention(query, key, key, visible, enable_gqa=True)
    return out.transpose(1, 2)


def test_attention_is_causal_on_token_major_heads() -> None:
    torch.testing.assert_close(attend(), expected())


def test_the_window_comes_from_the_mask() -> None:
    torch.testing.assert_close(attend(Mask(window=3)), expected(3))
    torch.testing.assert_close(attend(Mask(window=3), sliding_window=3), expected(3))


def test_a_window_that_the_mask_does_not_have_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Layer asks for a window of 3, and its mask has None"):
        attend(sliding_window=3)


class Encoder(Layer):
    is_causal = False


@pytest.mark.parametrize("options", [{"is_causal": False}, {"module": Encoder()}])
def test_attention_that_is_not_causal_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError, match="attends to later tokens"):
        attend(**options)


@pytest.mark.parametrize("mask", [None, torch.zeros(1, 1, 6, 6)])
def test_attention_without_a_mask_of_ours_is_refused(mask: Tensor | None) -> None:
    with pytest.raises(UnsupportedError, match="what it may see is unknown"):
        attend(mask)


@pytest.mark.parametrize("name", ["position_bias", "head_mask", "alibi"])
def test_an_argument_that_changes_the_scores_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match=name):
        attend(**{name: torch.ones(1)})


def test_masks_are_named_by_what_they_let_through() -> None:
    window = masking_utils.sliding_window_causal_mask_function(8)
    assert registry._mask(mask_function=masking_utils.causal_mask_function) == Mask()
    assert registry._mask(mask_function=window, local_size=8) == Mask(window=8)


@pytest.mark.parametrize(
    "function",
    [
        masking_utils.bidirectional_mask_function,
        masking_utils.or_masks(masking_utils.causal_mask_function, masking_utils.bidirectional_mask_function),
        masking_utils.and_masks(masking_utils.causal_mask_function, lambda batch, head, q, k: k % 2 == 0),
        masking_utils.chunked_causal_mask_function(4, torch.zeros(1, dtype=torch.long)),
    ],
    ids=["bidirectional", "prefix", "of the model's own", "chunked"],
)
def test_a_mask_that_the_operator_cannot_express_is_refused(function: Any) -> None:
    with pytest.raises(UnsupportedError, match="masks attention with"):
        registry._mask(mask_function=function, local_size=4)


def test_a_window_of_unknown_size_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="a window of unknown size"):
        registry._mask(mask_function=masking_utils.sliding_window_causal_mask_function(8))

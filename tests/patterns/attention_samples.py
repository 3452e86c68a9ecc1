"""Random input for the patterns of attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autodeploy.testing import Sampler

BATCH, HEADS, TOKENS, WIDTH, KV_HEADS = 2, 6, 5, 8, 3


def draw(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randn(shape).to(dtype)


def mask() -> Tensor:
    """True in some places of each row."""
    hidden = torch.rand(BATCH, 1, TOKENS, TOKENS) < 0.4
    return hidden & ~torch.eye(TOKENS, dtype=torch.bool)


def joined(dtype: torch.dtype) -> dict[str, Any]:
    """Matrices whose batch and heads are joined."""
    a, b = draw(dtype, BATCH, HEADS, TOKENS, WIDTH), draw(dtype, BATCH, HEADS, WIDTH, TOKENS)
    rows = [BATCH * HEADS, TOKENS]
    return {"a": a, "b": b, "a_shape": [*rows, WIDTH], "b_shape": [BATCH * HEADS, WIDTH, TOKENS]}


def joined_transposed(dtype: torch.dtype) -> dict[str, Any]:
    given = joined(dtype)
    return {**given, "b": draw(dtype, BATCH, HEADS, TOKENS, WIDTH), "b_shape": given["a_shape"]}


def added(dtype: torch.dtype) -> dict[str, Any]:
    a, b, bias = draw(dtype, 4, TOKENS, WIDTH), draw(dtype, 4, WIDTH, TOKENS), draw(dtype, 4, 1, TOKENS)
    return {"a": a, "b": b, "bias": bias, "beta": 0.5, "alpha": 0.25}


def joined_scores(dtype: torch.dtype) -> dict[str, Any]:
    x = draw(dtype, BATCH, HEADS, TOKENS, TOKENS)
    bias = draw(dtype, BATCH * HEADS, 1, TOKENS)
    return {"x": x, "bias": bias, "x_shape": [-1, TOKENS, TOKENS], "factor": 0.3, "dim": -1, "dtype": torch.float32}


def scores(dtype: torch.dtype) -> dict[str, Any]:
    """Scores, and a number so low that a score added to it is lost."""
    x = draw(dtype, BATCH, HEADS, TOKENS, TOKENS)
    first, second = draw(dtype, HEADS, 1, TOKENS), draw(dtype, BATCH, 1, TOKENS, TOKENS)
    terms = {"first": first, "second": second, "bias": first}
    return {"x": x, "mask": mask(), "low": torch.finfo(dtype).min, "factor": 0.3, **terms}


def scores_of_softmax(dtype: torch.dtype) -> dict[str, Any]:
    return {**scores(dtype), "dim": -1, "dtype": torch.float32}


def products(dtype: torch.dtype) -> dict[str, Any]:
    """Queries and keys that meet in float32, and a factor that rounds nothing."""
    q, k = draw(dtype, BATCH, HEADS, TOKENS, WIDTH), torch.randn(BATCH, HEADS, WIDTH, TOKENS)
    return {"q": q, "k": k, "factor": 2.0, "dtype": torch.float32}


def narrow_products(dtype: torch.dtype) -> dict[str, Any]:
    return {**products(dtype), "k": draw(dtype, BATCH, HEADS, WIDTH, TOKENS)}


def products_of_rows(dtype: torch.dtype) -> dict[str, Any]:
    q, k = torch.randn(BATCH, HEADS, TOKENS, WIDTH), draw(dtype, BATCH, HEADS, TOKENS, WIDTH)
    return {"q": q, "k": k, "dtype": torch.float32, "dim0": 2, "dim1": 3}


def heads(dtype: torch.dtype) -> dict[str, Any]:
    """Queries, keys and values whose heads come before tokens, and all that may be done to their scores."""
    q, k = torch.randn(BATCH, HEADS, TOKENS, WIDTH) * 0.3, torch.randn(BATCH, HEADS, WIDTH, TOKENS)
    dtypes = dict.fromkeys(("score_dtype", "softmax_dtype", "weight_dtype"), torch.float32)
    column = {"column": [1, HEADS, 1, 1], "columns": [BATCH, HEADS, TOKENS, 1], "join": -1}
    bounds = {"slice_dim": 3, "start": 0, "end": -1, "step": 1}
    return {
        "q": q,
        "k": k,
        "v": draw(dtype, BATCH, HEADS, TOKENS, WIDTH + 1),
        "bias": torch.randn(BATCH, 1, TOKENS, TOKENS),
        "softcap": 1.5,
        "sinks": torch.randn(HEADS),
        "dim": -1,
        "sliced_dtype": dtype,
        "value_dtype": dtype,
        **dtypes,
        **column,
        **bounds,
    }


def built_in(dtype: torch.dtype) -> dict[str, Any]:
    q, k, v = (draw(dtype, BATCH, HEADS, TOKENS, width) for width in (WIDTH, WIDTH, WIDTH + 1))
    bias = draw(dtype, BATCH, 1, TOKENS, TOKENS)
    return {"q": q, "k": k, "v": v, "bias": bias, "dropout": 0.0, "causal": False, "scale": 0.3, "enable_gqa": False}


def grouped(dtype: torch.dtype) -> dict[str, Any]:
    """Token-major queries of more heads than keys and values have."""
    q, k, v = (draw(dtype, BATCH, TOKENS, count, WIDTH) for count in (HEADS, KV_HEADS, KV_HEADS))
    options = {"scale": 0.3, "cap": 1.5, "sinks": torch.randn(HEADS), "causal": True}
    bias = torch.randn(BATCH, 1, TOKENS, TOKENS)
    return {"q": q, "k": k, "v": v, **options, "bias": bias, "count": 2, "dim": 2, "size": None}


def grouped_swapped(dtype: torch.dtype) -> dict[str, Any]:
    given = grouped(dtype)
    return {**given, "dim": 1, "k": given["k"].transpose(1, 2), "v": given["v"].transpose(1, 2)}


def expanded(dtype: torch.dtype) -> dict[str, Any]:
    given, wide = grouped(dtype), [BATCH, TOKENS, KV_HEADS, 2, WIDTH]
    whole = [BATCH, TOKENS, HEADS, WIDTH]
    shapes = {"k_wide": wide, "v_wide": wide, "k_joined": whole, "v_joined": whole}
    return {**given, **shapes, "k": given["k"].unsqueeze(3), "v": given["v"].unsqueeze(3)}


def expanded_swapped(dtype: torch.dtype) -> dict[str, Any]:
    given, wide = grouped_swapped(dtype), [BATCH, KV_HEADS, 2, TOKENS, WIDTH]
    whole = [BATCH, HEADS, TOKENS, WIDTH]
    shapes = {"k_wide": wide, "v_wide": wide, "k_joined": whole, "v_joined": whole}
    return {**given, **shapes, "k": given["k"].unsqueeze(2), "v": given["v"].unsqueeze(2)}


def scaled(dtype: torch.dtype) -> dict[str, Any]:
    given = grouped(dtype)
    return {**given, "q": given["q"].transpose(1, 2), "factor": 0.5}


SAMPLERS: Mapping[str, Sampler] = {
    "merged_matmul": joined,
    "merged_matmul_transposed": joined_transposed,
    "added_matmul": added,
    "merged_scale": joined_scores,
    "merged_divisor": joined_scores,
    "merged_bias": joined_scores,
    "merged_softmax": joined_scores,
    "merged_cast": joined_scores,
    "scores_filled": scores,
    "scores_chosen": scores,
    "scores_bounded": scores_of_softmax,
    "scores_shifted": scores_of_softmax,
    "scores_biased_twice": scores,
    "biased_scores_scaled": scores,
    "biased_scores_divided": scores,
    "scores_scaled": products,
    "scores_divided": products,
    "scores_cast": narrow_products,
    "keys_cast_first": products_of_rows,
    "attention": heads,
    "attention_biased": heads,
    "attention_capped": heads,
    "attention_capped_biased": heads,
    "attention_with_sinks": heads,
    "attention_built_in": built_in,
    "heads_repeated": grouped,
    "heads_repeated_swapped": grouped_swapped,
    "heads_expanded": expanded,
    "heads_expanded_swapped": expanded_swapped,
    "queries_scaled": scaled,
}
"""By the name of the pattern."""

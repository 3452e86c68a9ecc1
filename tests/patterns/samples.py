"""Random input for the built-in patterns, by the kind of operator that they end in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autodeploy.rewrite import Rule
from autodeploy.testing import Sampler, sample_tokens
from tests.patterns import attention_samples

TOKENS, HEADS, WIDTH, ROTATED = 6, 3, 16, 8


def norm(dtype: torch.dtype) -> dict[str, Any]:
    """Rows of which some vary so little that the epsilon decides."""
    wide, weight = torch.float32, torch.randn(WIDTH).to(dtype)
    dtypes = {"compute_dtype": wide, "weight_dtype": wide, "bias_dtype": wide, "factor_dtype": wide, "out_dtype": dtype}
    extra = {"size": WIDTH, "cudnn": False, "bias": torch.randn(WIDTH).to(dtype)}
    return {"x": sample_tokens(dtype), "weight": weight, "eps": 1e-5, **dtypes, **extra}


def norm_of_heads(dtype: torch.dtype) -> dict[str, Any]:
    scales = torch.tensor([1.0, 1e-3, 30.0]).reshape(1, HEADS, 1, 1)
    heads = (torch.randn(1, HEADS, TOKENS, WIDTH) * scales).to(dtype)
    return {**norm(dtype), "x": heads, "offset": 1.0, "scale_in_float32": True}


def norm_of_heads_by_hand(dtype: torch.dtype) -> dict[str, Any]:
    heads = norm_of_heads(dtype)
    return {**heads, "x": heads["x"].transpose(1, 2), "weight": torch.randn(HEADS, WIDTH).to(dtype)}


def heads_of(token_major: bool, dtype: torch.dtype) -> Tensor:
    shape = (1, TOKENS, HEADS, WIDTH) if token_major else (1, HEADS, TOKENS, WIDTH)
    return torch.randn(shape).to(dtype)


def parts_of(x: Tensor) -> dict[str, Any]:
    """What a pattern binds to take the halves of x, or its neighbours."""
    slices = {"last": 3, "half": WIDTH // 2, "end": WIDTH, "cat_dim": -1, "part_dim": -1}
    return {**slices, "shape": x.shape, "pair_shape": [*x.shape[:-1], -1, 2], "pair_dim": -1}


def rotary(dtype: torch.dtype, width: int, heads_dim: int | None) -> dict[str, Any]:
    """Heads and `width` angles for each token, with a dimension of heads unless that is None: then a table."""
    x, angles = heads_of(heads_dim == -2, dtype), torch.randn(TOKENS, width)
    angles = angles if heads_dim is None else angles.unsqueeze(0).unsqueeze(heads_dim)
    wide = {"compute_dtype": torch.float32, "part_dtype": torch.float32, "out_dtype": dtype}
    return {"x": x, "cos": angles.cos(), "sin": angles.sin(), **parts_of(x), **wide}


def rotary_complex(dtype: torch.dtype, heads_dim: int) -> dict[str, Any]:
    given = rotary(dtype, WIDTH // 2, heads_dim)
    return {**given, "turns": torch.complex(given["cos"], given["sin"])}


def of_rows(given: dict[str, Any]) -> dict[str, Any]:
    """The same with rows in place of their token-major heads."""
    return {**given, "x": given["x"].flatten(2)}


def rotary_of_some(dtype: torch.dtype, *, token_major: bool) -> dict[str, Any]:
    """Heads and angles for their first elements, as the canonical operator takes them."""
    angles = torch.randn(1, TOKENS, ROTATED)
    slices = {"last": 3, "end": WIDTH, "cat_dim": -1, "rest": 3, "split": ROTATED}
    return {"x": heads_of(token_major, dtype), "cos": angles.cos(), "sin": angles.sin(), "interleaved": False, **slices}


def gate(dtype: torch.dtype) -> dict[str, Any]:
    return {"gate": sample_tokens(dtype), "up": torch.randn(3, TOKENS, WIDTH).to(dtype), "kind": "silu"}


def projection(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "x": sample_tokens(dtype),
        "weight": torch.randn(5, WIDTH).to(dtype),
        "bias": torch.randn(5).to(dtype),
        "kind": "gelu",
    }


def activation(dtype: torch.dtype) -> dict[str, Any]:
    x: Tensor = (torch.randn(3, TOKENS, WIDTH) * 3.0).to(dtype)
    return {"x": x}


def halves(dtype: torch.dtype) -> dict[str, Any]:
    return {"x": torch.randn(3, TOKENS, WIDTH).to(dtype), "dim": -1}


def logits(dtype: torch.dtype) -> dict[str, Any]:
    return {"x": (torch.randn(3, TOKENS, WIDTH) * 3.0).to(dtype), "cap": 2.5}


def sampler_of_rotary(name: str) -> Sampler:
    heads_dim = -2 if "token_major" in name else -3
    if "partial" in name:
        return lambda dtype: rotary_of_some(dtype, token_major=heads_dim == -2)
    if name == "rope_complex_of_rows":
        return lambda dtype: of_rows(rotary_complex(dtype, -2))
    if name == "rope_of_pairs_of_rows":
        return lambda dtype: of_rows(rotary(dtype, WIDTH // 2, -2))
    if "complex" in name:
        return lambda dtype: of_rows(rotary_complex(dtype, heads_dim))
    if name.endswith("by_table"):
        return lambda dtype: rotary(dtype, WIDTH, None)
    return lambda dtype: rotary(dtype, WIDTH // 2 if "_of_" in name else WIDTH, heads_dim)


def image(dtype: torch.dtype) -> dict[str, Any]:
    tensors = {"x": torch.randn(2, 4, 9, 8), "weight": torch.randn(6, 2, 3, 2), "bias": torch.randn(6)}
    sizes = {"stride": [2, 1], "padding": [1, 2], "dilation": [1, 2], "groups": 2, "kind": "silu"}
    return {**{name: tensor.to(dtype) for name, tensor in tensors.items()}, **sizes}


def gathered(dtype: torch.dtype, *, of_rows: bool = False, along: int | None = None, **extra: Any) -> dict[str, Any]:
    weight, x = torch.rand(4, WIDTH, WIDTH).to(dtype), torch.rand(6, WIDTH).to(dtype)  # no element is a difference
    x = x if along is None else x.unsqueeze(along)
    selected = torch.tensor([3, 0, 1, 1, 2, 3])
    return {"weight": weight, "x": x, "selected": selected.reshape(-1, 1) if of_rows else selected, **extra}


def outer(dtype: torch.dtype) -> dict[str, Any]:
    """A column and a row; frequencies and the positions of two sequences."""
    vectors = {"column": torch.randn(3, TOKENS, 1).to(dtype), "row": torch.randn(3, 1, WIDTH).to(dtype)}
    return {**vectors, "freqs": torch.rand(WIDTH).to(dtype), "positions": torch.randn(2, TOKENS), "dtype": dtype}


def rotary_tables(dtype: torch.dtype) -> dict[str, Any]:
    """Positions and frequencies that differ enough for every column to matter, and where tables are put together."""
    dims = {"new_dim": 2, "cat_dim": -1, "heads_cat_dim": -1, "last": 3, "half": ROTATED}
    given = {"positions": torch.randint(9, (2, TOKENS)), "frequencies": torch.rand(ROTATED), "scaling": 1.5}
    return {**given, "compute_dtype": torch.float32, "dtype": dtype, **dims}


def lookup(dtype: torch.dtype) -> dict[str, Any]:
    """A table and rows of it."""
    flags = {"padding_idx": 3, "scale_grad": False, "sparse": False}
    return {"weight": torch.randn(7, WIDTH).to(dtype), "ids": torch.randint(7, (2, TOKENS)), **flags}


def inputs_of(rule: Rule) -> Sampler:
    """The sampler for a pattern, by its name."""
    if rule.name in attention_samples.SAMPLERS:
        return attention_samples.SAMPLERS[rule.name]
    if "rotary_tables" in rule.name:
        return rotary_tables
    if "rope" in rule.name:
        return sampler_of_rotary(rule.name)
    named = {
        "embedding": lookup,
        "linear": projection,
        "linear_by_matmul": projection,
        "linear_with_bias": projection,
        "linear_activation": projection,
        "convolution_activation": image,
        "gathered_matmul": lambda dtype: gathered(dtype, along=-1),
        "gathered_row_matmul": lambda dtype: gathered(dtype, along=-2),
        "gathered_einsum": lambda dtype: gathered(dtype, equation="toi,ti->to"),
        "gathered_einsum_of_rows": lambda dtype: gathered(dtype, equation="tkio,ti->tko", of_rows=True),
        "gated_activation": gate,
        "gated_sigmoid": gate,
        "glu": halves,
        "angles_by_matmul": outer,
        "outer_product": outer,
        "soft_cap": logits,
        "rms_norm_of_heads": norm_of_heads,
        "layer_norm_of_heads": norm_of_heads,
        "layer_norm_of_heads_by_hand": norm_of_heads_by_hand,
    }
    return named.get(rule.name, norm if "norm" in rule.name else activation)

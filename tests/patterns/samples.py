"""Random input for the built-in patterns, by the kind of operator that they end in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autodeploy.rewrite import Rule
from autodeploy.testing import Sampler, sample_tokens

TOKENS, HEADS, WIDTH, ROTATED = 6, 3, 16, 8


def norm(dtype: torch.dtype) -> dict[str, Any]:
    """Rows of which some vary so little that the epsilon decides."""
    wide, weight = torch.float32, torch.randn(WIDTH).to(dtype)
    dtypes = {"compute_dtype": wide, "weight_dtype": wide, "out_dtype": dtype}
    extra = {"size": WIDTH, "cudnn": False, "bias": torch.randn(WIDTH).to(dtype)}
    return {"x": sample_tokens(dtype), "weight": weight, "eps": 1e-5, **dtypes, **extra}


def norm_of_heads(dtype: torch.dtype) -> dict[str, Any]:
    scales = torch.tensor([1.0, 1e-3, 30.0]).reshape(1, HEADS, 1, 1)
    heads = (torch.randn(1, HEADS, TOKENS, WIDTH) * scales).to(dtype)
    return {**norm(dtype), "x": heads, "offset": 1.0, "scale_in_float32": True}


def rotary(dtype: torch.dtype, width: int = WIDTH, *, token_major: bool) -> dict[str, Any]:
    shape = (1, TOKENS, HEADS, WIDTH) if token_major else (1, HEADS, TOKENS, WIDTH)
    angles = torch.randn(1, TOKENS, width)
    slices = {"last": 3, "half": width // 2, "end": WIDTH, "cat_dim": -1, "rest": 3, "split": width}
    dtypes = {"compute_dtype": torch.float32, "out_dtype": dtype}
    given = {"x": torch.randn(shape).to(dtype), "cos": angles.cos(), "sin": angles.sin(), "interleaved": False}
    return {**given, **slices, **dtypes, "shape": shape}


def gate(dtype: torch.dtype) -> dict[str, Any]:
    return {"gate": sample_tokens(dtype), "up": torch.randn(3, TOKENS, WIDTH).to(dtype), "kind": "silu"}


def projection(dtype: torch.dtype) -> dict[str, Any]:
    return {"x": sample_tokens(dtype), "weight": torch.randn(5, WIDTH).to(dtype), "bias": torch.randn(5).to(dtype)}


def activation(dtype: torch.dtype) -> dict[str, Any]:
    x: Tensor = (torch.randn(3, TOKENS, WIDTH) * 3.0).to(dtype)
    return {"x": x}


def inputs_of(rule: Rule) -> Sampler:
    """The sampler for a pattern, by its name."""
    if "rope" in rule.name:
        width = ROTATED if "partial" in rule.name else WIDTH
        return lambda dtype: rotary(dtype, width, token_major="token_major" in rule.name)
    if rule.name.endswith("of_heads"):
        return norm_of_heads
    if "norm" in rule.name:
        return norm
    return {"linear": projection, "gated_activation": gate}.get(rule.name, activation)

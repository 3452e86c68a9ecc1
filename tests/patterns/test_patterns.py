"""Every built-in pattern computes what its replacement computes, on fresh random input in every dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.patterns import PATTERNS
from autodeploy.rewrite import Rule, evaluate
from autodeploy.rewrite.expression import holes_of

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1e-2}
Bindings = Mapping[str, Any]
TOKENS, HEADS, WIDTH, ROTATED = 6, 3, 16, 8


def tokens(dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(1, TOKENS, WIDTH) * scale).to(dtype)


def norm(dtype: torch.dtype) -> dict[str, Any]:
    """Rows of which some vary so little that the epsilon decides."""
    x = torch.cat((tokens(dtype), tokens(dtype, 1e-3), tokens(dtype, 30.0)))
    wide, weight = torch.float32, torch.randn(WIDTH).to(dtype)
    dtypes = {"compute_dtype": wide, "weight_dtype": wide, "out_dtype": dtype}
    extra = {"size": WIDTH, "cudnn": False, "bias": torch.randn(WIDTH).to(dtype)}
    return {"x": x, "weight": weight, "eps": 1e-5, **dtypes, **extra}


def norm_of_heads(dtype: torch.dtype) -> dict[str, Any]:
    heads = torch.randn(1, HEADS, TOKENS, WIDTH).to(dtype)
    return {**norm(dtype), "x": heads, "offset": 1.0, "scale_in_float32": True}


def rotary(dtype: torch.dtype, width: int = WIDTH, *, token_major: bool) -> dict[str, Any]:
    shape = (1, TOKENS, HEADS, WIDTH) if token_major else (1, HEADS, TOKENS, WIDTH)
    angles = torch.randn(1, TOKENS, width)
    slices = {"last": 3, "half": width // 2, "end": WIDTH, "cat_dim": -1, "rest": 3, "split": width}
    dtypes = {"compute_dtype": torch.float32, "out_dtype": dtype}
    given = {"x": torch.randn(shape).to(dtype), "cos": angles.cos(), "sin": angles.sin(), "interleaved": False}
    return {**given, **slices, **dtypes, "shape": shape}


def gate(dtype: torch.dtype) -> dict[str, Any]:
    return {"gate": tokens(dtype), "up": tokens(dtype), "kind": "silu"}


def projection(dtype: torch.dtype) -> dict[str, Any]:
    return {"x": tokens(dtype), "weight": torch.randn(5, WIDTH).to(dtype), "bias": torch.randn(5).to(dtype)}


def activation(dtype: torch.dtype) -> dict[str, Any]:
    return {"x": tokens(dtype, 3.0)}


def inputs_of(rule: Rule) -> Callable[[torch.dtype], dict[str, Any]]:
    """Random bindings for the holes of a pattern, by the kind of operator that it ends in."""
    if "rope" in rule.name:
        width = ROTATED if "partial" in rule.name else WIDTH
        return lambda dtype: rotary(dtype, width, token_major="token_major" in rule.name)
    if rule.name.endswith("of_heads"):
        return norm_of_heads
    if "norm" in rule.name:
        return norm
    return {"linear": projection, "gated_activation": gate}.get(rule.name, activation)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rule", PATTERNS, ids=lambda rule: rule.name)
def test_a_pattern_computes_what_replaces_it(rule: Rule, dtype: torch.dtype) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        bindings = inputs_of(rule)(dtype)
        found, replaced = evaluate(rule.pattern, bindings), evaluate(rule.replacement, bindings)
        assert found.shape == replaced.shape
        assert found.dtype == replaced.dtype == dtype
        rows = (found.double() - replaced.double()).norm(dim=-1) / found.double().norm(dim=-1).clamp_min(1e-12)
        assert float(rows.max()) <= TOLERANCE[dtype]


@pytest.mark.parametrize("rule", PATTERNS, ids=lambda rule: rule.name)
def test_a_pattern_says_what_it_is_and_binds_its_holes(rule: Rule) -> None:
    assert rule.doc.endswith(".")
    assert set(rule.holes) <= set(holes_of(rule.pattern))
    assert rule.roots


def test_names_are_unique() -> None:
    assert len({rule.name for rule in PATTERNS}) == len(PATTERNS)

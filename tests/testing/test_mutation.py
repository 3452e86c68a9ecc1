"""Mutants: which there are, and that a check that is too weak lets them live."""

from __future__ import annotations

from typing import Any

import torch

from autodeploy.patterns.activations import gated_activation
from autodeploy.patterns.norms import layer_norm, rms_norm_of_heads, rms_norm_offset
from autodeploy.patterns.rotary import rope
from autodeploy.rewrite import Call, Computed, Expr, Var, cast, rewrite
from autodeploy.testing import mutants, surviving_mutants

aten = torch.ops.aten


def names(rule: Any) -> set[str]:
    listed = [mutant.name for mutant in mutants(rule)]
    assert len(listed) == len(set(listed))
    return set(listed)


def test_numbers_flags_and_operands_change() -> None:
    assert names(rms_norm_offset) == {
        "rms_norm: x <-> weight",
        "rms_norm.x = weight",
        "rms_norm.weight dropped",
        "rms_norm.weight = x",
        "rms_norm.eps x 10",
        "rms_norm.offset 1 -> 0",
        "rms_norm.scale_in_float32 flipped",
        "rms_norm left out",
    }


def test_what_is_bound_later_changes_too() -> None:
    assert {"rms_norm.offset x 10", "rms_norm.scale_in_float32 flipped"} <= names(rms_norm_of_heads)
    assert {"transpose.dim0 1 -> 2", "transpose left out"} <= names(rms_norm_of_heads)
    assert {"transpose.dim0 1 -> 2", "transpose.dim0 1 -> 2 (2)"} <= names(rope)
    assert "gated_activation.kind another" in names(gated_activation)


def test_constants_casts_and_lists() -> None:
    def built(x: Expr, gate: Expr, dtype: Var) -> Expr:
        parts = Call(aten.cat.default, ([x * 2.0, gate], -1))
        return cast(Call(torch.ops.autodeploy.activate.default, (parts, "silu")), dtype)

    @rewrite(built)
    def rule(x: Expr, gate: Expr, dtype: Var) -> Expr:
        return cast(Call(aten.silu.default, (Call(aten.cat.default, ([x * 2.0, gate], -1)),)), dtype)

    found = names(rule)
    assert {"cast left out", "activate.kind silu -> gelu", "cat.dim -1 -> 0", "mul.other 2 -> 20"} <= found
    assert "cat.tensors[1] = x" in found


def test_outputs_and_what_is_computed_change_and_sums_stay() -> None:
    def scaled(scale: float) -> float:
        return scale * 2

    def built(x: Expr, y: Expr, scale: Expr) -> tuple[Expr, Expr]:
        return Call(aten.elu.default, (x, Computed(scaled, (scale,)))), x + y

    @rewrite(built)
    def rule(x: Expr, y: Expr, scale: Expr) -> tuple[Expr, Expr]:
        return Call(aten.elu.default, (x * 1.0, scale)), y + x

    found = names(rule)
    assert {"outputs reversed", "elu.alpha x 10", "add left out", "add.other = x"} <= found
    assert "add: self <-> other" not in found


def test_each_mutant_differs_from_the_rule() -> None:
    assert all(mutant.rule.replacement != layer_norm.replacement for mutant in mutants(layer_norm))


def test_a_weak_check_lets_mutants_live() -> None:
    """Without a variance that is small, a bias that is not zero, or a look at the rounding, these pass."""

    def weak(dtype: torch.dtype) -> dict[str, Any]:
        x = (torch.randn(2, 6, 16) * 1e3).to(dtype)
        given = {"x": x, "weight": torch.randn(16).to(dtype), "bias": torch.zeros(16, dtype=dtype)}
        return {**given, "eps": 1e-5, "size": 16, "cudnn": False}

    assert surviving_mutants(layer_norm, weak) == ["layer_norm.bias dropped", "layer_norm.eps x 10"]
    assert surviving_mutants(layer_norm) == []
    assert surviving_mutants(rms_norm_offset) == ["rms_norm.scale_in_float32 flipped"]
    assert surviving_mutants(rms_norm_offset, same_rounding=True) == []

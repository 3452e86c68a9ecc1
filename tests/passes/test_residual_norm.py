"""Sums with a residual join the norm of them, and projections are seen whichever way their weight is stored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional

from autodeploy.pipeline import PassReport
from tests.graphs import run, targets
from tests.passes.residual_rows import PASSES, WIDTH, Function, Rows, random_inputs


def optimized(function: Function) -> tuple[GraphModule, dict[str, PassReport]]:
    """The graph after `PASSES`, which was held to compute what the function does."""
    module = Rows(function).eval()
    passed = run(PASSES, module, *random_inputs())
    fresh = random_inputs()
    torch.testing.assert_close(passed.graph_module(*fresh), module(*fresh), rtol=1e-5, atol=1e-5)
    return passed.graph_module, {report.name: report for report in passed.reports}


def normed_and_summed(w: Rows, x: Tensor, residual: Tensor) -> Tensor:
    total = residual + x
    return w.rms(total) + total


def normed_twice(w: Rows, x: Tensor, residual: Tensor) -> Tensor:
    total = residual + x
    return w.layer(total) * w.rms(total)


def reshaped(w: Rows, x: Tensor, residual: Tensor) -> Tensor:
    rows = (x + residual).reshape(-1, WIDTH)
    return (w.layer(rows) + rows).reshape(x.shape)


def split_into_heads(w: Rows, x: Tensor, residual: Tensor) -> Tensor:
    return functional.layer_norm((x + residual).reshape(1, -1, 2, WIDTH // 2), (WIDTH // 2,))


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (reshaped, "autodeploy.add_layer_norm.default"),
        (normed_and_summed, "autodeploy.add_rms_norm.default"),
        (normed_twice, "autodeploy.add_layer_norm.default"),
        (lambda w, x, residual: w.layer(x + residual), "autodeploy.add_layer_norm.default"),
    ],
)
def test_a_sum_joins_its_norm(function: Function, operator: str) -> None:
    gm, reports = optimized(function)
    assert targets(gm).count(operator) == reports["fuse_residual_norm"].matches == 1


def read_before(w: Rows, x: Tensor, residual: Tensor) -> Tensor:
    total = x + residual
    return total.sin() + w.rms(total)


def test_the_norm_of_parts_of_a_sum_does_not() -> None:
    gm, _ = optimized(split_into_heads)
    assert {"autodeploy.layer_norm.default", "aten.add.Tensor"} <= set(targets(gm))


def read_before_reshape(w: Rows, x: Tensor, residual: Tensor) -> Tensor:
    total = x + residual
    return total.sin() + w.rms(total.reshape(-1, WIDTH))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (read_before_reshape, "reads the sum before the norm"),
        (read_before, "reads the sum before the norm"),
        (lambda w, x, residual: w.rms(x * 2 + residual[:, :, :1]), "adds tensors of different shapes or dtypes"),
        (lambda w, x, residual: w.rms(x + 1.0) + residual, "is no plain sum of two tensors"),
        (lambda w, x, residual: w.rms(torch.add(x, residual, alpha=2)), "is no plain sum of two tensors"),
    ],
)
def test_another_sum_does_not_and_says_why(function: Function, reason: str) -> None:
    gm, reports = optimized(function)
    assert not [name for name in targets(gm) if name.startswith("autodeploy.add_")]
    (miss,) = reports["fuse_residual_norm"].misses
    assert reason in miss.reason


@pytest.mark.parametrize(
    ("function", "matches"),
    [
        (lambda w, x, residual: (x + residual) @ w.matrix, 1),
        (lambda w, x, residual: torch.matmul(x - residual, w.matrix) + w.matrix[0], 2),  # the bias is another
    ],
)
def test_a_stored_weight_is_turned(function: Function, matches: int) -> None:
    gm, reports = optimized(function)
    assert targets(gm).count("autodeploy.linear.default") == 1
    assert reports["canonicalize_linears"].matches == matches
    assert "aten.matmul.default" not in targets(gm)

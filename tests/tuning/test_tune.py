"""Measuring on a GPU: the fastest of what is right, for every number of rows."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.kernels import Kernel, KernelTable, builtin_kernels
from autodeploy.ops import linear, residual_linear
from autodeploy.tuning import ROWS, Matmul, tune_matmuls
from autodeploy.tuning.dispatch import tuned_linear

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
MATMUL = Matmul(n=256, k=512, dtype="float16")


def test_every_choice_gives_the_right_numbers() -> None:
    table = builtin_kernels("cuda")
    choices = tune_matmuls([MATMUL], table)
    assert [choice.rows for choice in choices.entries[MATMUL]] == list(ROWS)
    run = tuned_linear(MATMUL, choices, table, linear.reference)
    weight = torch.randn(256, 512, dtype=torch.float16, device="cuda")
    for rows in (1, 5, 40, 100, 3000, 9000):
        x = torch.randn(rows, 512, dtype=torch.float16, device="cuda")
        expected = x.double() @ weight.double().T
        assert float((run(x, weight).double() - expected).norm() / expected.norm()) < 2e-3


def test_a_residual_is_added_by_every_choice() -> None:
    """Timing writes over residuals; what is checked, and what runs later, starts from whole ones."""
    matmul = replace(MATMUL, has_residual=True)
    table = builtin_kernels("cuda")
    choices = tune_matmuls([matmul], table, max_rows=64)
    weight = torch.randn(256, 512, dtype=torch.float16, device="cuda")
    for kernels in (table, table.overwriting()):
        run = tuned_linear(matmul, choices, kernels, residual_linear.reference)
        for rows in (1, 5, 40, 100):
            x, residual = (torch.randn(rows, width, dtype=torch.float16, device="cuda") for width in (512, 256))
            expected = x.double() @ weight.double().T + residual.double()
            assert float((run(x, weight, residual).double() - expected).norm() / expected.norm()) < 2e-3


def test_what_is_wrong_is_never_chosen() -> None:
    def nothing(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        return x.new_zeros(x.shape[0], weight.shape[0])

    wrong = Kernel(linear, "wrong", nothing, priority=100)
    choices = tune_matmuls([MATMUL], KernelTable([*builtin_kernels("cuda"), wrong]), max_rows=2)
    assert "wrong" not in {choice.backend for _, choice in choices}


def test_a_result_too_large_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("autodeploy.tuning.tune"), "MOST_RESULTS", 256 * 4)
    choices = tune_matmuls([MATMUL], KernelTable(builtin_kernels("cuda")))
    assert [choice.rows for choice in choices.entries[MATMUL]] == [1, 2, 4]


def test_no_more_rows_are_measured_than_a_step_has() -> None:
    choices = tune_matmuls([MATMUL], KernelTable(builtin_kernels("cuda")), max_rows=5)
    assert [choice.rows for choice in choices.entries[MATMUL]] == [1, 2, 4, 8]

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.export import trace_module
from autodeploy.kernels import Kernel, KernelTable, reference_kernel
from autodeploy.kernels.table import Tunable
from autodeploy.ops import gated_linear, linear
from autodeploy.tuning import Choice, Choices, Matmul, load_choices, matmuls_of, save_choices
from autodeploy.tuning.dispatch import tuned_linear
from tests.graphs import clean, context

WIDE = Matmul(n=12, k=8, dtype="float32")
GATED = Matmul(n=12, k=8, dtype="float32", gate="silu")


@dataclass(frozen=True)
class Cut:
    """A configuration of a pretended kernel."""

    block: int


def choices() -> Choices:
    return Choices({WIDE: (Choice(1, "fast", {"block": 4}, 2e-6, "torch", 3e-6), Choice(8, "torch", None, 5e-6))})


def recording_table(calls: list[str]) -> KernelTable:
    """Kernels that write down who was called."""

    def bind(cut: Cut) -> Any:
        def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            calls.append(f"fast {cut.block}")
            return linear.reference(x, weight, bias)  # type: ignore[no-any-return]

        return run

    def reference(*given: Any) -> Any:
        calls.append("torch")
        return linear.reference(*given)

    tunable = Tunable(lambda rows, n, k, dtype: (Cut(4),), bind, Cut)
    return KernelTable(
        [Kernel(linear, "fast", bind(Cut(0)), tunable=tunable, priority=1), Kernel(linear, "torch", reference)]
    )


@pytest.mark.parametrize(("rows", "called"), [(1, "fast 4"), (2, "torch"), (8, "torch"), (9, "otherwise")])
def test_a_projection_runs_by_its_number_of_rows(rows: int, called: str) -> None:
    calls: list[str] = []

    def otherwise(*given: Any) -> Any:
        calls.append("otherwise")
        return linear.reference(*given)

    run = tuned_linear(WIDE, choices(), recording_table(calls), otherwise)
    x, weight = torch.randn(1, rows, 8), torch.randn(12, 8)
    assert torch.equal(run(x, weight, None), x @ weight.T)
    assert calls == [called]


def test_an_unknown_matmul_and_a_missing_backend_run_as_ever() -> None:
    other = Matmul(n=3, k=8, dtype="float32")
    assert tuned_linear(other, choices(), recording_table([]), linear.reference) is linear.reference
    without = KernelTable([reference_kernel(linear)])
    x, weight = torch.randn(1, 8), torch.randn(12, 8)
    assert torch.equal(tuned_linear(WIDE, choices(), without, linear.reference)(x, weight), x @ weight.T)


def test_a_gated_projection_has_choices_of_its_own() -> None:
    calls: list[str] = []

    def otherwise(*given: Any) -> Any:
        calls.append("otherwise")
        return gated_linear.reference(*given)

    table = KernelTable([Kernel(gated_linear, "fast", otherwise), *recording_table(calls)])
    assert tuned_linear(GATED, choices(), table, otherwise) is otherwise
    run = tuned_linear(
        GATED, Choices({GATED: (Choice(1, "fast", None, 1e-6), Choice(2, "none", None, 1e-6))}), table, run_never
    )
    for rows in (1, 2):
        x, weight, bias = torch.randn(1, rows, 8), torch.randn(12, 8), torch.randn(12)
        assert torch.equal(run(x, weight, bias, "silu"), gated_linear.reference(x, weight, bias, "silu"))
    assert calls == ["otherwise"]


def run_never(*_: Any) -> Any:
    raise AssertionError("there is a choice for so many rows")


def test_choices_survive_json() -> None:
    both = choices() | Choices({GATED: (Choice(1, "torch", None, 1e-6),)})
    data = json.loads(json.dumps(both.as_data()))
    assert Choices.from_data(data) == both
    assert choices().missing([WIDE, Matmul(1, 1, "bfloat16")]) == (Matmul(1, 1, "bfloat16"),)
    assert choices().missing([WIDE], lambda _: (8,)) == ()
    assert choices().missing([WIDE], lambda _: (8, 16)) == (WIDE,)
    found = choices().find(WIDE, 3)
    assert found is not None
    assert found.rows == 8
    assert choices().find(WIDE, 9) is None


def test_the_cache_is_apart_for_other_conditions_and_may_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTODEPLOY_CACHE", str(tmp_path))
    here, there = {"gpu": "one", "torch": "1"}, {"gpu": "one", "torch": "2"}
    assert load_choices(here) == Choices()
    save_choices(here, choices())
    more = Choices({Matmul(1, 1, "bfloat16"): (Choice(1, "torch", None, 1e-6),)})
    save_choices(here, more)
    assert load_choices(here) == choices() | more
    assert load_choices(there) == Choices()
    (file,) = (tmp_path / "tuning").iterdir()
    file.write_text('{"matmuls": [{"n": 3}]}')
    assert load_choices(here) == Choices()


def test_equal_projections_are_found_once() -> None:
    class Three(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleList(
                [torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 4, False)]
            )

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = part(x)
            return x

    from autodeploy.passes.canonicalize_linears import CanonicalizeLinears

    gm = clean(trace_module(Three(), torch.randn(1, 3, 8)).graph_module)
    CanonicalizeLinears().run(gm, context())
    assert matmuls_of(gm.graph) == (Matmul(4, 8, "float32"), Matmul(8, 8, "float32", has_bias=True))

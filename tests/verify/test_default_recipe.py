"""The default recipe keeps the numbers, and says by how much it moves them."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console

import autodeploy as ad
from autodeploy.errors import InputError
from autodeploy.export import Traced
from autodeploy.optimizer import Optimized
from autodeploy.verify import Verification
from autodeploy.weights import MemorySource
from tests.verify.conftest import CONFIG

LAYERS = CONFIG.num_hidden_layers


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def optimized(traced: dict[torch.dtype, Traced], source: MemorySource) -> Optimized:
    return ad.optimize(traced[torch.bfloat16], gpu="cpu", source=source)


@pytest.fixture(scope="module")
def verification(optimized: Optimized) -> Verification:
    return optimized.verify()


def test_both_dtypes_have_a_check_of_each_pass(optimized: Optimized, verification: Verification) -> None:
    names = [report.name for report in optimized.history]
    assert [trial.dtype for trial in verification.trials] == ["float32", "bfloat16"]
    for trial in verification.trials:
        assert [check.name for check in trial.checks] == names
        assert not [check.failure for check in trial.checks if check.failure]


def test_figures_are_those_of_float32_and_of_bfloat16(verification: Verification) -> None:
    single, half = verification.trials
    assert 0 < single.end_to_end.worst.relative < 1e-5
    assert single.end_to_end.worst.top1 == 1
    assert single.end_to_end.drift is None
    assert half.end_to_end.drift is not None
    assert 1e-3 < half.end_to_end.drift < 5e-2
    assert half.end_to_end.worst.kl is not None
    assert 0 <= half.end_to_end.worst.kl < 1e-2


def test_samples_are_named_and_counted(verification: Verification) -> None:
    assert verification.samples["random"] == 32
    assert set(verification.samples) == {"random", "hashed words"}


def test_a_result_survives_json(verification: Verification) -> None:
    assert Verification.from_dict(verification.as_dict()) == verification


def test_a_result_is_a_table(verification: Verification) -> None:
    console = Console(width=140, record=True)
    console.print(verification)
    shown = console.export_text()
    assert "page_attention" in shown
    assert "from float32" in shown
    assert "32 of random" in shown


def test_a_diff_shows_what_a_pass_changed(optimized: Optimized) -> None:
    names = [report.name for report in optimized.history]
    diff = optimized.diff(names.index("fuse_gate_up"))
    assert len([line for line in diff.removed if "up_proj.weight" in line]) == LAYERS
    assert len([line for line in diff.added if "gate_up_proj.weight" in line]) == LAYERS
    assert "bf16[1, " in str(diff)
    assert diff.name in str(diff)
    assert len(diff.lines) < len(optimized.graph_module.graph.nodes)
    assert optimized.diff(-1).name == f"{len(names) - 1}: {names[-1]}"


def test_a_diff_of_no_pass_is_refused(optimized: Optimized) -> None:
    with pytest.raises(InputError, match=r"diff\(99\): the history has passes 0 to"):
        optimized.diff(99)


def test_the_program_runs(optimized: Optimized) -> None:
    assert optimized.program.vocab_size == CONFIG.vocab_size
    assert optimized.program is optimized.program

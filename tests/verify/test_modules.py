"""Modules of a user's are verified on inputs like those they were traced with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import autodeploy as ad
from autodeploy.discovery import kernel_table
from autodeploy.errors import UnsupportedError, VerificationError
from autodeploy.pipeline import Pass
from autodeploy.verify import Verification
from autodeploy.verify.model import model_samples, verify_passes
from autodeploy.verify.module import InputSamples
from autodeploy.weights import MemorySource
from tests.verify.test_broken import Renew, larger_epsilon

ops = torch.ops.autodeploy
WIDTH = 16


class Block(nn.Module):
    """A norm by hand and a gated MLP over some layers."""

    def __init__(self, num_layers: int = 3) -> None:
        super().__init__()
        self.scales = nn.ParameterList(torch.randn(WIDTH) for _ in range(num_layers))
        self.gates = nn.ModuleList(nn.Linear(WIDTH, 32) for _ in range(num_layers))
        self.ups = nn.ModuleList(nn.Linear(WIDTH, 32) for _ in range(num_layers))
        self.downs = nn.ModuleList(nn.Linear(32, WIDTH) for _ in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for scale, gate, up, down in zip(self.scales, self.gates, self.ups, self.downs, strict=True):
            h = scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
            x = x + down(nn.functional.silu(gate(h)) * up(h))
        return x


class Bigram(nn.Module):
    """A language model of two tables; the places are shifted by an input that comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, WIDTH), nn.Linear(WIDTH, 12)

    def forward(self, shift: Tensor, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table(input_ids) + shift)
        return logits


def verify(module: nn.Module, *inputs: Tensor) -> Verification:
    dynamic = [{1: "T"} if one.shape[1] > 1 else {} for one in inputs]
    return ad.optimize(ad.trace(module, *inputs, dynamic=dynamic), gpu="cpu").verify()


def test_results_are_compared_by_their_errors_alone() -> None:
    verification = verify(Block(), torch.randn(2, 5, WIDTH))
    (trial,) = verification.trials
    assert trial.dtype == "float32"
    assert 0 < trial.end_to_end.worst.relative < 1e-5
    assert trial.end_to_end.worst.kl is trial.end_to_end.worst.top1 is None
    assert verification.samples == {"random": 10, "example": 10}
    assert Verification.from_dict(verification.as_dict()) == verification


def test_a_table_has_no_column_for_what_is_not_known() -> None:
    console = Console(width=120, record=True)
    console.print(verify(Block(), torch.randn(2, 5, WIDTH)))
    shown = console.export_text()
    assert "relative" in shown
    assert "top-1" not in shown
    assert "10 of random" in shown


def test_logits_of_a_module_are_distributions() -> None:
    verification = verify(Bigram(), torch.randn(1, 1, WIDTH), torch.randint(12, (1, 7)))
    assert verification.trials[0].end_to_end.worst.top1 == 1.0


def test_a_module_in_16_bits_is_held_to_itself_in_float32() -> None:
    verification = verify(Block().bfloat16(), torch.randn(2, 5, WIDTH).bfloat16())
    assert [trial.dtype for trial in verification.trials] == ["float32", "bfloat16"]
    drift = verification.trials[1].end_to_end.drift
    assert drift is not None
    assert 1e-4 < drift < 5e-2


def test_the_wrong_rewrite_is_found() -> None:
    optimized = ad.optimize(ad.trace(Block(), torch.randn(2, 5, WIDTH) * 1e-2), gpu="cpu")
    broken: Pass = Renew(target=ops.rms_norm.default, mistake=larger_epsilon, where="scales.1")
    with pytest.raises(VerificationError, match="pass 'renew' changes the numbers in float32") as caught:
        verify_passes(
            optimized.traced,
            [*(one for _, one in optimized.recipe.passes if one.name.startswith(("clean", "canonicalize"))), broken],
            source=MemorySource({}),
            samples=model_samples(optimized.traced),
            device=torch.device("cpu"),
            kernels=kernel_table(torch.device("cpu")),
        )
    assert caught.value.finding.rewrite is not None
    assert (caught.value.finding.rewrite.number, caught.value.finding.rewrite.total) == (2, 3)


def test_inputs_are_drawn_from_the_range_of_the_example() -> None:
    examples = (torch.randint(3, 9, (400,)), torch.rand(400) + 2, torch.ones(400), torch.rand(400) < 0.5)
    traced = ad.trace(nn.Linear(4, 3), torch.randn(2, 4))
    samples = model_samples(replace(traced, inputs=examples))
    assert isinstance(samples, InputSamples)
    integers, floats, same, booleans = samples.calls["random"]
    assert sorted(set(integers.tolist())) == list(range(3, 9))
    assert 2 <= float(floats.min()) < float(floats.max()) < 3
    assert float(same.std()) > 0.5
    assert booleans.dtype is torch.bool
    assert 0.4 < float(booleans.float().mean()) < 0.6
    assert samples.calls["example"] is examples


def test_what_gives_nothing_but_zeros_is_the_same_as_zeros() -> None:
    assert verify(nn.ReLU(), -torch.rand(2, 3) - 1).trials[0].end_to_end.worst.relative == 0


def test_a_module_has_no_program() -> None:
    alone = ad.optimize(ad.trace(torch.nn.Linear(4, 3), torch.randn(2, 4)), gpu="cpu")
    with pytest.raises(UnsupportedError, match="has no program"):
        _ = alone.program

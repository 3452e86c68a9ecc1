"""A rehearsal runs a step of every kind that an engine will capture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy.foresight import uncaptured
from autodeploy.runtime.graphs import decode_buckets, mixed_buckets
from autodeploy.runtime.model import StepInputs
from autodeploy.runtime.packing import PackedStep
from autodeploy.runtime.rehearsal import classes, rehearse
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.runtime.tables import begin_step
from tests.runtime.fakes import FakeModel


class Watched(FakeModel):
    """Says nothing, and notes the shape of each step and of its page table."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
        self.shapes.append((len(inputs.input_ids), *inputs.page_table.shape))
        assert not inputs.page_table.any(), "the only page is nobody's"
        return torch.zeros(len(inputs.logit_rows), self.vocab_size)


def test_every_class_of_sizes_is_run_with_pages_as_they_will_be() -> None:
    model, buckets = Watched(), (*decode_buckets(40), *mixed_buckets(64, 40))
    run = list(rehearse(model, RuntimeSettings(page_size=4, max_batch_size=40), classes(buckets)))
    assert model.shapes == [(one.num_tokens, one.num_requests, 16) for one in run]
    assert run == sorted(classes(buckets), reverse=True)


def test_inputs_are_valid_where_the_kernel_that_begins_a_step_is_only_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def noted(step: PackedStep[Tensor], table: Tensor, last_tokens: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.full_like(one, 2**30) for one in begin_step(step, table, last_tokens))

    class Embedding(FakeModel):
        def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
            assert inputs.input_ids.max() < self.vocab_size
            assert not inputs.page_table.any()
            assert inputs.query_start[-1] == len(inputs.input_ids)
            return torch.zeros(len(inputs.logit_rows), self.vocab_size)

    monkeypatch.setattr("autodeploy.runtime.tables.choose_begin", lambda device: noted)
    assert list(rehearse(Embedding(), RuntimeSettings(page_size=4, max_batch_size=8), decode_buckets(8)))


def test_classes_are_the_ends_of_each_power_of_two() -> None:
    sizes = [one.num_tokens for one in classes(decode_buckets(300))]
    assert sizes == [1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 128, 144, 256, 288, 300]


@pytest.mark.parametrize(
    ("tokens", "requests", "sizes"),
    [(8192, 1024, [(8192, 1), (8192, 1024), (2048, 1024)]), (16, 64, [(16, 1), (16, 8)]), (1, 4, [(1, 1)])],
)
def test_steps_that_are_not_captured_have_one_request_and_many(
    tokens: int, requests: int, sizes: list[tuple[int, int]]
) -> None:
    settings = RuntimeSettings(max_num_tokens=tokens, max_batch_size=requests)
    assert [(one.num_tokens, one.num_requests) for one in uncaptured(settings)] == sizes

"""The kernel that begins a step does what its reference does, to both tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autodeploy.runtime.packing import PackedStep, StepSize
from autodeploy.runtime.tables import Tables, begin_step
from autodeploy.testing.families import tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests.families import build
from tests.kernels.device import DEVICE, INTERPRETED, device_test
from tests.runtime.test_captured import Replays, answers

in_one_kernel = pytest.importorskip("autodeploy.kernels.triton.step").begin_step


def draw_step(size: StepSize, num_rows: int, width: int) -> PackedStep[torch.Tensor]:
    """A step with known and unknown tokens, whose requests have different rows and new pages."""
    step = PackedStep.over(torch.randint(1, 1 << 40, (size.num_words,), device=DEVICE), size)
    step.token_ids.copy_(torch.randint(-num_rows, 1000, step.token_ids.shape))
    step.rows.copy_(torch.randperm(num_rows - 1)[: size.num_requests])
    step.query_start.copy_(torch.arange(size.num_requests + 1))
    step.context_len.copy_(torch.randint(1, 1000, step.context_len.shape))
    ends = torch.randint(size.num_pages - 1, (size.num_requests,)).sort().values  # the last ones belong to nobody
    step.page_start.copy_(torch.nn.functional.pad(ends, (1, 0)))
    of_page = torch.bucketize(torch.arange(size.num_pages), ends, right=True).clamp(max=size.num_requests - 1)
    columns = torch.randperm(width)[: size.num_pages]
    step.places.copy_(step.rows.cpu()[of_page] * width + columns)
    step.pages.copy_(torch.randint(5000, step.pages.shape))
    end = int(ends[-1])
    step.places[end:], step.pages[end:] = (num_rows - 1) * width + columns[0], 4999
    return step


@device_test
@pytest.mark.parametrize(("size", "width"), [((1, 1, 1, 9), 12), ((7, 3, 3, 40), 2500), ((2100, 5, 5, 30), 64)])
def test_a_step_begins_as_its_reference_does(size: tuple[int, int, int, int], width: int) -> None:
    num_rows = 8
    step = draw_step(StepSize(*size), num_rows, width)
    last_tokens = torch.randint(1000, (num_rows,), device=DEVICE)
    tables = [torch.randint(5000, (num_rows, width), dtype=torch.int32).to(DEVICE)] * 2
    tables[1] = tables[0].clone()
    out, expected = (
        run(step, table, last_tokens) for run, table in zip((in_one_kernel, begin_step), tables, strict=True)
    )
    for one, other in zip(out, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert torch.equal(tables[0][step.rows], tables[1][step.rows])


@pytest.mark.skipif(not INTERPRETED, reason="tests/runtime/test_cuda.py asks the GPU")
def test_an_engine_says_the_same_with_tables_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are apart, as a GPU's are, and every page that it is not told of is a wrong one."""

    class Apart(Tables):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._is_shared, self._begin = False, in_one_kernel
            self._page_table = torch.full_like(self._page_table, 3)

    config = tiny_config("llama")
    program = build(config, MemorySource(dict(tiny_model(config).state_dict()))).program
    plain = answers(program, overlap=False, capture=None)
    monkeypatch.setattr("autodeploy.runtime.runner.Tables", Apart)
    assert answers(program, overlap=True, capture=None) == plain
    assert answers(program, overlap=True, capture=Replays()) == plain

"""Padding a step changes nothing: neither what is said nor the pages of anybody."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy.program import Program
from autodeploy.runtime.batch import BatchItem
from autodeploy.runtime.packing import UNKNOWN, PackedStep
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.tables import Tables
from autodeploy.testing.families import tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests.families import build, error
from tests.runtime.fakes import new_request

ROWS, MAX_PAGES, PAGE_SIZE, PAGES = 4, 6, 4, 16


@pytest.fixture(scope="module")
def program() -> Program:
    config = tiny_config("llama")
    return build(config, MemorySource(dict(tiny_model(config).state_dict()))).program


def item(row: int, pages: list[int], first: int, num_tokens: int, num_known: int | None = None) -> BatchItem:
    request = new_request(torch.randint(3, 60, (num_known or first + num_tokens,)).tolist(), SamplingParams())
    request.pages = pages
    return BatchItem(request, row, first, num_tokens, 0, True, False)


def run(program: Program, cache: list[Tensor], items: list[BatchItem], size: tuple[int, int] | None) -> Tensor:
    tables = Tables(ROWS, MAX_PAGES, PAGE_SIZE, PAGES, program.device)
    tables.show_pages(items)
    ends = torch.tensor([one.num_tokens for one in items]).cumsum(0)
    packed = PackedStep.of(items, (ends - 1).tolist())
    if size is not None:
        packed = packed.padded(*size, tables.scrap_row)
        flat = packed.flat()
        packed = PackedStep.from_flat(flat, *size)
        assert (packed.num_tokens, packed.num_requests) == size
    return program.forward(tables.inputs_of(packed), cache)[: len(items)]


@pytest.mark.parametrize("size", [(16, 8), (12, 12), (13, 2), (9, 3)])
def test_padding_changes_nothing(program: Program, size: tuple[int, int]) -> None:
    items = [item(2, [3, 9, 1], 0, 8), item(0, [5], 0, 1)]
    with torch.inference_mode():
        caches = [program.new_cache(PAGES + 1, PAGE_SIZE) for _ in range(2)]
        for cache in caches:
            for pages in cache:
                pages.fill_(float("nan"))  # what padding must neither read nor spread
                pages[[3, 9, 1, 5]] = 0.0
        plain, padded = run(program, caches[0], items, None), run(program, caches[1], items, size)
    assert error(padded, plain) <= 1e-6
    for one, other in zip(*caches, strict=True):
        assert torch.equal(one[:PAGES].nan_to_num(7.0), other[:PAGES].nan_to_num(7.0))


def test_an_unknown_token_is_the_last_of_its_row() -> None:
    tables = Tables(ROWS, MAX_PAGES, PAGE_SIZE, PAGES, torch.device("cpu"))
    tables.keep_tokens(torch.tensor([1, 3]), torch.tensor([41, 43]))
    packed = PackedStep.of([item(3, [0, 1], 5, 1, num_known=5), item(1, [2], 0, 2)], [0])
    assert packed.tokens[0].tolist()[0] == UNKNOWN
    inputs = tables.inputs_of(packed)
    assert inputs.input_ids[0] == 43
    assert inputs.input_ids[1:].tolist() == packed.tokens[0].tolist()[1:]
    assert inputs.position_ids.tolist() == [5, 0, 1]
    assert inputs.query_start.tolist() == [0, 1, 3]
    assert inputs.context_len.tolist() == [6, 2]

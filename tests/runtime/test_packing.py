"""Padding a step changes nothing: neither what is said nor the pages of anybody."""

from __future__ import annotations

from random import Random

import pytest
import torch
from torch import Tensor

from autodeploy.program import Program
from autodeploy.runtime.batch import BatchItem
from autodeploy.runtime.draft import Draft
from autodeploy.runtime.model import StepInputs
from autodeploy.runtime.packing import PackedStep, StepSize
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


def new_tables() -> Tables:
    return Tables(ROWS, MAX_PAGES, PAGE_SIZE, PAGES, torch.device("cpu"))


def item(
    row: int, pages: list[int], first: int, num_tokens: int, num_known: int | None = None, **how: bool
) -> BatchItem:
    request = new_request(torch.randint(3, 60, (num_known or first + num_tokens,)).tolist(), SamplingParams())
    request.pages = pages
    how = {"samples": True, "wants_prompt_rows": False, **how}
    return BatchItem(request, row, first, num_tokens, 0, **how)


def packed_of(items: list[BatchItem], tables: Tables, size: StepSize | None = None) -> PackedStep[Tensor]:
    draft = Draft.of(items, tables)
    size = size or draft.size
    return PackedStep.over(draft.words(size, tables), size)


def run(program: Program, cache: list[Tensor], items: list[BatchItem], size: StepSize | None) -> Tensor:
    tables = new_tables()
    return program.forward(tables.inputs_of(packed_of(items, tables, size)), cache)[: len(items)]


@pytest.mark.parametrize("size", [(16, 8), (12, 11), (13, 2), (9, 3)])
def test_padding_changes_nothing(program: Program, size: tuple[int, int]) -> None:
    items = [item(2, [3, 9, 1], 0, 8), item(0, [5], 0, 1)]
    with torch.inference_mode():
        caches = [program.new_cache(PAGES + 1, PAGE_SIZE) for _ in range(2)]
        for cache in caches:
            for pages in cache:
                pages.fill_(float("nan"))  # what padding must neither read nor spread
                pages[[3, 9, 1, 5]] = 0.0
        plain = run(program, caches[0], items, None)
        padded = run(program, caches[1], items, StepSize(*size, size[1], 7))
    assert error(padded, plain) <= 1e-6
    for one, other in zip(*caches, strict=True):
        assert torch.equal(one[:PAGES].nan_to_num(7.0), other[:PAGES].nan_to_num(7.0))


def test_an_unknown_token_is_the_last_of_its_row() -> None:
    tables = new_tables()
    tables.kept(torch.tensor([1, 3])).keep(torch.tensor([41, 43]))
    packed = packed_of([item(3, [0, 1], 5, 1, num_known=5), item(1, [2], 0, 2)], tables)
    assert packed.token_ids.tolist()[0] == tables.unknown(3) < 0
    inputs = tables.inputs_of(packed)
    assert inputs.input_ids[0] == 43
    assert inputs.input_ids[1:].tolist() == packed.token_ids.tolist()[1:]
    assert inputs.position_ids.tolist() == [5, 0, 1]
    assert inputs.query_start.tolist() == [0, 1, 3]
    assert inputs.context_len.tolist() == [6, 2]
    assert inputs.slots.tolist() == [PAGE_SIZE + 1, 2 * PAGE_SIZE, 2 * PAGE_SIZE + 1]


@pytest.mark.parametrize("num_known", [5, 6])
def test_the_host_begins_a_step_as_a_device_does(num_known: int) -> None:
    tables = new_tables()
    tables.kept(torch.arange(ROWS)).keep(torch.randint(100, (ROWS,)))
    step = packed_of([item(3, [0, 1], 5, 1, num_known), item(1, [2], 0, 2)], tables, StepSize(6, 3, 3, 2))
    one, other = tables.inputs_of(step), tables.plain_inputs_of(step)
    for name in StepInputs.__dataclass_fields__:
        assert getattr(one, name).dtype == getattr(other, name).dtype
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_logits_are_asked_for_where_something_is_sampled_or_explained() -> None:
    tables = new_tables()
    some = [item(3, [0, 1], 0, 5, samples=False), item(1, [2], 0, 2), item(0, [4], 1, 1)]
    packed = packed_of(some, tables)
    assert (packed.logit_rows.tolist(), packed.kept_in.tolist()) == ([6, 7], [1, 0])
    explained = [
        item(3, [0, 1], 0, 2, samples=False, wants_prompt_rows=True),
        item(1, [2], 0, 2),
        item(0, [4], 0, 2, wants_prompt_rows=True),
    ]
    draft = Draft.of(explained, tables)
    assert draft.logit_rows.tolist() == [0, 1, 3, 4, 5]
    assert draft.kept_in.tolist() == [ROWS, ROWS, 1, ROWS, 0]
    assert draft.sampled is not None
    assert draft.sampled.tolist() == [2, 4]
    assert draft.logit_counts == (2, 1, 2)


def test_a_padded_decode_step_has_logits_of_all_rows_in_their_order(program: Program) -> None:
    items = [item(2, [3, 9], 5, 1), item(0, [5], 0, 1, samples=False), item(1, [1], 2, 1)]
    draft = Draft.of(items, new_tables())
    assert draft.logit_rows.tolist() == [0, 1, 2]
    assert draft.kept_in.tolist() == [2, ROWS, 1]
    assert draft.sampled is not None
    assert draft.sampled.tolist() == [0, 2]
    with torch.inference_mode():
        caches = [program.new_cache(PAGES + 1, PAGE_SIZE) for _ in range(2)]
        plain = run(program, caches[0], items, None)
        padded = run(program, caches[1], items, StepSize(8, 8, 8, 7))
    assert error(padded, plain) <= 1e-6


def test_a_device_with_memory_of_its_own_is_told_of_new_pages_once() -> None:
    """The meta device stands for one: nothing here looks into its memory."""
    tables = Tables(ROWS, MAX_PAGES, PAGE_SIZE, PAGES, torch.device("meta"))
    draft = Draft.of([item(2, [3, 9], 0, 8), item(0, [5], 0, 1), item(1, [7, 8, 6], 0, 1)], tables)
    assert draft.new.starts.tolist() == [0, 2, 3, 6]
    assert draft.new.pages.tolist() == [3, 9, 5, 7, 8, 6]
    assert draft.new.places.tolist() == [12, 13, 0, 6, 7, 8]
    size = StepSize(20, 5, 5, 8)
    padded = PackedStep.over(draft.words(size, tables), size)
    assert padded.page_start.tolist() == [0, 2, 3, 6, 6, 6]
    assert padded.places.tolist()[6:] == [ROWS * MAX_PAGES] * 2
    assert padded.pages.tolist()[6:] == [PAGES] * 2


def test_sizes_of_random_steps_hold_what_they_say() -> None:
    random = Random(0)
    for _ in range(50):
        size = StepSize(*(random.randrange(1, 40) for _ in range(4)))
        step = PackedStep.over(torch.arange(size.num_words), size)
        assert [len(step.token_ids), len(step.rows), len(step.logit_rows), len(step.pages)] == list(size)
        assert step.pages[-1] == size.num_words - 1
        assert size.holds(size)
        assert not size.holds(size._replace(num_pages=size.num_pages + 1))

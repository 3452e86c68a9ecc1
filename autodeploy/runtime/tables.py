"""What is known of the running requests on both sides: the pages of each; and on the device, its last token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autodeploy.kernels import triton
from autodeploy.runtime.batch import BatchItem
from autodeploy.runtime.model import StepInputs
from autodeploy.runtime.packing import Integers, Kept, PackedStep


class NewPages(NamedTuple):
    """Pages that the device's table has not yet: where they go, and if there are any, whose they are."""

    starts: Integers
    places: Integers
    pages: Integers


NO_PAGES = NewPages(*np.empty((3, 0), dtype=np.int64))

Begin = Callable[[PackedStep[Tensor], Tensor, Tensor], tuple[Tensor, ...]]
"""What `begin_step` is, and its kernel."""


class Tables:
    """A row for each running request, and one more, `scrap_row`, whose pages are nobody's: padding goes there."""

    def __init__(self, num_rows: int, max_pages: int, page_size: int, scrap_page: int, device: torch.device) -> None:
        self._page_size = page_size
        self.scrap_row, self.scrap_page = num_rows, scrap_page
        self.scrap_slot, self.scrap_place = scrap_page * page_size, num_rows * max_pages
        self._on_host = np.full((num_rows + 1, max_pages), scrap_page, dtype=np.int32)
        self._is_shared = device.type == "cpu"
        table = torch.from_numpy(self._on_host)
        self._page_table = table if self._is_shared else table.to(device)
        self._last_tokens = torch.zeros(num_rows + 1, dtype=torch.int64, device=device)
        self._begin = choose_begin(device)

    def unknown(self, row: int) -> int:
        """What stands for a row's last token where only the device knows it: its place from the end, below 0."""
        return row - self.scrap_row - 1

    def take_pages(self, items: Sequence[BatchItem]) -> NewPages:
        """Note the pages that are new since a request's last step; what the device must be told of them."""
        counts = np.zeros(len(items) + 1, dtype=np.int64)
        places: list[int] = []
        new: list[int] = []
        for i, item in enumerate(items, start=1):
            pages, first = item.request.pages, item.first_new_page
            if first < len(pages):
                start = item.row * self._on_host.shape[1]
                places += range(start + first, start + len(pages))
                new += pages[first:]
                counts[i] = len(pages) - first
        if not new:
            return NO_PAGES
        there = np.array((places, new), dtype=np.int64)
        self._on_host.reshape(-1)[there[0]] = there[1]
        return NO_PAGES if self._is_shared else NewPages(counts.cumsum(), there[0], there[1])

    def slots(self, rows: Integers, positions: Integers) -> Integers:
        """Where the keys and values of positions `[T]` of `rows [T]` go."""
        columns = positions // self._page_size  # a sixth of the time that divmod takes
        found: Integers = self._on_host.reshape(-1).take(rows * self._on_host.shape[1] + columns).astype(np.int64)
        found -= columns
        found *= self._page_size
        found += positions
        return found

    def kept(self, rows: Tensor) -> Kept:
        """Where the last tokens of `rows` int64 `[N]` are kept."""
        return Kept(self._last_tokens, rows)

    def inputs_of(self, step: PackedStep[Tensor]) -> StepInputs:
        """What the model takes for a step that is on the device, whose table learns of its new pages.

        Nothing here waits for the device, so that a CUDA graph can hold it.
        """
        return self._inputs(step, self._begin)

    def plain_inputs_of(self, step: PackedStep[Tensor]) -> StepInputs:
        """The same by PyTorch alone, for where kernels are noted and not launched."""
        return self._inputs(step, begin_step)

    def _inputs(self, step: PackedStep[Tensor], begin: Begin) -> StepInputs:
        input_ids, page_table, query_start, context_len = begin(step, self._page_table, self._last_tokens)
        return StepInputs(
            input_ids=input_ids,
            position_ids=step.positions,
            query_start=query_start,
            context_len=context_len,
            page_table=page_table,
            slots=step.slots,
            logit_rows=step.logit_rows,
        )


def begin_step(step: PackedStep[Tensor], table: Tensor, last_tokens: Tensor) -> tuple[Tensor, ...]:
    """Write a step's new pages into `table` int32 `[rows, P]`, and look up what it needs of both tables.

    Gives `input_ids` int64 `[T]`, whose unknown ones are `last_tokens` int64 `[rows]` counted from the end, and int32
    `page_table [B, P]`, `query_start [B + 1]`, `context_len [B]`.
    """
    if len(step.places):
        table.view(-1)[step.places] = step.pages.int()
    known = last_tokens[step.token_ids.clamp(max=-1)]
    input_ids = torch.where(step.token_ids < 0, known, step.token_ids)
    return input_ids, table[step.rows], step.query_start.int(), step.context_len.int()


def begin_on_host(step: PackedStep[Tensor], table: Tensor, last_tokens: Tensor) -> tuple[Tensor, ...]:
    """What `begin_step` does where the host shares the tables: NumPy takes a fraction of PyTorch's time."""
    input_ids = step.token_ids
    if input_ids.numpy().min() < 0:
        input_ids = torch.where(input_ids < 0, last_tokens[input_ids.clamp(max=-1)], input_ids)
    page_table = torch.from_numpy(table.numpy()[step.rows.numpy()])
    starts, lengths = (torch.from_numpy(one.numpy().astype(np.int32)) for one in (step.query_start, step.context_len))
    return input_ids, page_table, starts, lengths


def choose_begin(device: torch.device) -> Begin:
    """The implementation of `begin_step` for a device."""
    if device.type == "cpu":
        return begin_on_host
    if triton.why_unavailable() is not None:
        return begin_step
    from autodeploy.kernels.triton.step import begin_step as in_one_kernel

    return in_one_kernel

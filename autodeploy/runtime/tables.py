"""What the device knows of the running requests: the pages of each, and its last token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodeploy.runtime.batch import BatchItem
from autodeploy.runtime.model import StepInputs
from autodeploy.runtime.packing import PackedStep
from autodeploy.runtime.transfer import integers, to_device


class Tables:
    """A row for each running request, and one more, `scrap_row`, whose pages are nobody's: padding goes there."""

    def __init__(self, num_rows: int, max_pages: int, page_size: int, scrap_page: int, device: torch.device) -> None:
        self._page_size = page_size
        self.scrap_row = num_rows
        self._device = device
        self._page_table = torch.full((num_rows + 1, max_pages), scrap_page, dtype=torch.int32, device=device)
        self._last_tokens = torch.zeros(num_rows + 1, dtype=torch.int64, device=device)

    def show_pages(self, items: Sequence[BatchItem]) -> None:
        """Write the pages that are new since a request's last step: a decode step has few."""
        places: list[int] = []
        pages: list[int] = []
        for item in items:
            new = item.request.pages[item.first_new_page :]
            if new:
                start = item.row * self._page_table.shape[1] + item.first_new_page
                places += range(start, start + len(new))
                pages += new
        if pages:
            index, held = to_device(torch.stack((integers(places), integers(pages))), self._device)
            self._page_table.view(-1)[index] = held.int()

    def keep_tokens(self, rows: Tensor, token_ids: Tensor) -> None:
        """Remember `token_ids` int64 `[N]` as the last ones of `rows` int64 `[N]`, both on the device."""
        self._last_tokens[rows] = token_ids

    def inputs_of(self, step: PackedStep) -> StepInputs:
        """What the model takes for a step that is on the device.

        Nothing here waits for the device, so that a CUDA graph can hold it.
        """
        token_ids, positions, row_of_token = step.tokens
        rows, context_len, ends = step.requests
        return StepInputs(
            input_ids=torch.where(token_ids < 0, self._last_tokens[row_of_token], token_ids),
            position_ids=positions,
            query_start=torch.nn.functional.pad(ends, (1, 0)).int(),
            context_len=context_len.int(),
            page_table=self._page_table[rows],
            slots=self._slots(row_of_token, positions),
            logit_rows=step.logit_rows,
        )

    def _slots(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Where the keys and values of positions `[T]` of `rows [T]` go: int64 `[T]`."""
        pages = self._page_table[rows, positions // self._page_size].long()
        return pages * self._page_size + positions % self._page_size

"""What one step computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from autodeploy.runtime.request import Request


class BatchItem(NamedTuple):
    """The part of one request in a step: tokens `first` to `first + num_tokens - 1`.

    Its keys and values go to `request.pages`, of which those from `first_new_page` on are new to the runner; `row`
    names the request in the runner's tables while it runs. An item that `samples` ends at the last known token.
    """

    request: Request
    row: int
    first: int
    num_tokens: int
    first_new_page: int
    samples: bool
    wants_prompt_rows: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """The items of a step, in an order that matters: an item may read pages that an earlier one writes in this step."""

    items: list[BatchItem]

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return sum(item.num_tokens for item in self.items)

    @property
    def sampling(self) -> list[BatchItem]:
        """The items that get a new token, in order."""
        return [item for item in self.items if item.samples]

"""What a step holds, gathered from its batch: plain integers, quickly, since a GPU may be waiting."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autodeploy.runtime.batch import BatchItem
from autodeploy.runtime.packing import Integers, PackedStep, StepSize
from autodeploy.runtime.tables import NO_PAGES, NewPages, Tables

NOTHING: Integers = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Draft:
    """A step, its columns as `PackedStep` describes them.

    `sampled` are those of the rows of logits that get a token; None where all of them do. `logit_counts` are the rows
    of each item; None where each has one if it samples, and else none.
    """

    token_ids: Integers
    positions: Integers
    slots: Integers
    logit_rows: Integers
    kept_in: Integers
    rows: Integers
    context_len: Integers
    ends: Integers
    new: NewPages
    sampled: Integers | None = None
    logit_counts: tuple[int, ...] | None = None

    @classmethod
    def of(cls, items: Sequence[BatchItem], tables: Tables) -> Draft:
        """The step that computes one or more items, whose pages the tables then know on the host."""
        requests, row_list, first_list, count_list, _, samples, wants_prompt = zip(*items, strict=True)
        rows, first, counts = np.array((row_list, first_list, count_list), dtype=np.int64)
        ends = counts.cumsum()
        positions, row_of_token = first, rows
        if sum(count_list) > len(items):  # a step of one token each is common, and has them already
            positions = np.arange(sum(count_list)) + (first - ends + counts).repeat(counts)
            row_of_token = rows.repeat(counts)
        new = tables.take_pages(items)
        token_ids = array("q")
        for request, row, start, count in zip(requests, row_list, first_list, count_list, strict=True):
            token_ids.extend(request.token_ids[start : start + count] or (tables.unknown(row),))
        logit_rows, kept_in, sampled, logit_counts = ends - 1, rows, None, None
        if any(wants_prompt) or (len(token_ids) == len(items) and not all(samples)):
            logit_rows, kept_in, sampled, logit_counts = _more_logits(items, rows, ends, tables.scrap_row)
        elif not all(samples):
            logit_rows, kept_in = logit_rows[list(samples)], rows[list(samples)]
        return cls(
            token_ids=np.frombuffer(token_ids, dtype=np.int64),
            positions=positions,
            slots=tables.slots(row_of_token, positions),
            logit_rows=logit_rows,
            kept_in=kept_in,
            rows=rows,
            context_len=first + counts,
            ends=ends,
            new=new,
            sampled=sampled,
            logit_counts=logit_counts,
        )

    @classmethod
    def of_nobody(cls) -> Draft:
        """An empty step, to be padded."""
        none = NOTHING
        return cls(none, none, none, none, none, none, none, none, NO_PAGES)

    @property
    def size(self) -> StepSize:
        """How much it holds."""
        return StepSize(len(self.token_ids), len(self.rows), len(self.logit_rows), len(self.new.places))

    def words(self, size: StepSize, tables: Tables) -> Tensor:
        """Words of their own that hold it, padded to `size`: int64 on the host."""
        words = np.empty(size.num_words, dtype=np.int64)
        self.write(PackedStep.over(words, size), size, tables)
        return torch.from_numpy(words)

    def write(self, step: PackedStep[Integers], size: StepSize, tables: Tables) -> None:
        """Write it into a step of `size`, padded with tokens, requests and rows of logits of nobody.

        Each request that is added has one token while they last.
        """
        num_tokens, num_requests = len(self.token_ids), len(self.rows)
        _fill(step.token_ids, self.token_ids, 0)
        _fill(step.positions, self.positions, 0)
        _fill(step.slots, self.slots, tables.scrap_slot)
        _fill(step.logit_rows, self.logit_rows, 0)
        _fill(step.kept_in, self.kept_in, tables.scrap_row)
        _fill(step.rows, self.rows, tables.scrap_row)
        _fill(step.context_len, self.context_len, 1)
        step.query_start[0] = 0
        _fill(step.query_start[1:], self.ends, size.num_tokens)
        more = min(size.num_requests - num_requests, size.num_tokens - num_tokens)
        if more:
            added = np.arange(num_tokens + 1, num_tokens + 1 + more)
            step.query_start[num_requests + 1 : num_requests + 1 + more] = added
        _fill(step.page_start, self.new.starts, len(self.new.places))
        _fill(step.places, self.new.places, tables.scrap_place)
        _fill(step.pages, self.new.pages, tables.scrap_page)


def _fill(into: Integers, values: Integers, rest: int) -> None:
    count = len(values)
    into[:count] = values
    if count < len(into):
        into[count:] = rest


def _more_logits(
    items: Sequence[BatchItem], rows: Integers, ends: Integers, scrap_row: int
) -> tuple[Integers, Integers, Integers, tuple[int, ...]]:
    """`logit_rows`, `kept_in`, `sampled` and `logit_counts` of a step with more rows of logits than it samples from.

    Either some item wants the logits of each of its tokens, or each has a single one: then no row is left out, since
    such a step is padded to one that computes all rows.
    """
    is_decode = ends[-1] == len(items)
    counts = tuple(one.num_tokens if one.wants_prompt_rows else int(one.samples or is_decode) for one in items)
    sampling = np.array([item.samples for item in items])
    logit_rows = np.concatenate([np.arange(end - count, end) for count, end in zip(counts, ends, strict=True)])
    sampled = np.cumsum(counts, dtype=np.int64)[sampling] - 1
    kept_in = np.full(len(logit_rows), scrap_row, dtype=np.int64)
    kept_in[sampled] = rows[sampling]
    return logit_rows, kept_in, sampled, counts

"""The inputs of a step over token sequences that nobody schedules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch

from autodeploy.runtime.model import StepInputs


def step_inputs(
    chunks: Sequence[Sequence[int]], starts: Sequence[int], device: torch.device, page_size: int, pages_each: int = 1
) -> StepInputs:
    """A step that computes `chunks` and the logits of every row.

    Sequence b of B has pages b, b + B, b + 2B, … (`pages_each` of them), and `starts[b]` tokens in them already.
    """
    lengths = torch.tensor([len(chunk) for chunk in chunks])
    table = torch.arange(pages_each * len(chunks), dtype=torch.int32).reshape(pages_each, len(chunks)).T
    row_of = torch.arange(len(chunks)).repeat_interleave(lengths)
    positions = torch.cat(
        [torch.arange(start, start + len(chunk)) for chunk, start in zip(chunks, starts, strict=True)]
    )
    pages = table[row_of, (positions // page_size).clamp(max=pages_each - 1)].long()
    inputs = StepInputs(
        input_ids=torch.tensor([token for chunk in chunks for token in chunk]),
        position_ids=positions,
        query_start=torch.tensor([0, *accumulate(map(len, chunks))], dtype=torch.int32),
        context_len=(torch.tensor(starts) + lengths).to(torch.int32),
        page_table=table.contiguous(),
        slots=pages * page_size + positions % page_size,
        logit_rows=torch.arange(len(positions)),
    )
    return StepInputs(**{name: getattr(inputs, name).to(device) for name in StepInputs.__dataclass_fields__})

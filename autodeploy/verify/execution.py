"""Running the graph of any stage: rows of tokens as traced, or steps over a paged cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule
from typing_extensions import override

from autodeploy.kernels import KernelTable
from autodeploy.program import Program, ProgramSpec, cache_specs
from autodeploy.runtime.model import StepInputs
from autodeploy.verify.samples import Samples
from autodeploy.verify.weights import BoundaryWeights
from autodeploy.weights import WeightPlan

PAGE_SIZE = 4
NUM_DECODED = 4
"""The last tokens of each sequence, which a graph with a cache computes one at a time."""


class Execution(Protocol):
    """Runs graphs on the same samples and weights, on one device, with the kernels that a table has there.

    Where no kernel was chosen yet, or none of the chosen backend is here, the operators' references run.
    """

    @property
    def over_vocabulary(self) -> bool:
        """Whether the last dimension of results is a vocabulary: then each row is a distribution of tokens."""

    def results(self, gm: GraphModule, plan: WeightPlan) -> dict[str, Tensor]:
        """What the graph gives for each kind of sample."""


class TokenExecution(Execution):
    """Runs the graphs of a language model on sequences of tokens."""

    over_vocabulary = True

    def __init__(self, samples: Samples, weights: BoundaryWeights, table: KernelTable) -> None:
        self._samples = samples
        self._weights = weights
        self._table = table

    @override
    def results(self, gm: GraphModule, plan: WeightPlan) -> dict[str, Tensor]:
        """The logits `[N, vocabulary]` of the N tokens of each kind of sample."""
        device = self._weights.device
        spec = ProgramSpec(0, 0, cache_specs(gm.graph))
        program = Program(gm, self._weights.read(plan), self._table, device, spec)
        run = _paged if spec.caches else _unpaged
        return {kind: run(program, sequences) for kind, sequences in self._samples.sequences.items()}


def _unpaged(program: Program, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Each sequence as a row of its own."""
    steps = (_step([one], [0], program.device) for one in sequences)
    return torch.cat([program.forward(step, []) for step in steps])


def _paged(program: Program, sequences: Sequence[Sequence[int]]) -> Tensor:
    """All but the last tokens of every sequence in one step, then one token of each in every further step."""
    num_pages = len(sequences) * _pages_each(sequences)
    cache = program.new_cache(num_pages, PAGE_SIZE)
    parts: list[list[Tensor]] = [[] for _ in sequences]
    for chunks, starts in _steps(sequences):
        logits = program.forward(_step(chunks, starts, program.device, _pages_each(sequences)), cache)
        for part, rows in zip(parts, torch.split(logits, [len(chunk) for chunk in chunks]), strict=True):
            part.append(rows)
    return torch.cat([rows for part in parts for rows in part])


def _steps(sequences: Sequence[Sequence[int]]) -> Iterator[tuple[list[Sequence[int]], list[int]]]:
    """The tokens of each step by sequence, and how many come before them."""
    firsts = [max(len(one) - NUM_DECODED, 1) for one in sequences]
    yield [one[:first] for one, first in zip(sequences, firsts, strict=True)], [0] * len(sequences)
    for offset in range(NUM_DECODED):
        places = [first + offset for first in firsts]
        yield [one[place : place + 1] for one, place in zip(sequences, places, strict=True)], places


def _pages_each(sequences: Sequence[Sequence[int]]) -> int:
    return -(-max(map(len, sequences)) // PAGE_SIZE)


def _step(
    chunks: Sequence[Sequence[int]], starts: Sequence[int], device: torch.device, pages_each: int = 1
) -> StepInputs:
    """A step that computes `chunks`; sequence b has pages b, b + B, b + 2B, … and `starts[b]` tokens in them."""
    lengths = torch.tensor([len(chunk) for chunk in chunks])
    table = torch.arange(pages_each * len(chunks), dtype=torch.int32).reshape(pages_each, len(chunks)).T
    row_of = torch.arange(len(chunks)).repeat_interleave(lengths)
    positions = torch.cat(
        [torch.arange(start, start + len(chunk)) for chunk, start in zip(chunks, starts, strict=True)]
    )
    pages = table[row_of, (positions // PAGE_SIZE).clamp(max=pages_each - 1)].long()
    inputs = StepInputs(
        input_ids=torch.tensor([token for chunk in chunks for token in chunk]),
        position_ids=positions,
        query_start=torch.tensor([0, *accumulate(map(len, chunks))], dtype=torch.int32),
        context_len=(torch.tensor(starts) + lengths).to(torch.int32),
        page_table=table.contiguous(),
        slots=pages * PAGE_SIZE + positions % PAGE_SIZE,
        logit_rows=torch.arange(len(positions)),
    )
    return StepInputs(**{name: getattr(inputs, name).to(device) for name in StepInputs.__dataclass_fields__})

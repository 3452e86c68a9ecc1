"""Running the graph of any stage: rows of tokens as traced, or steps over a paged cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule
from typing_extensions import override

from autodeploy.kernels import KernelTable
from autodeploy.program import Program, ProgramSpec, cache_specs
from autodeploy.runtime.step_inputs import step_inputs
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
    steps = (step_inputs([one], [0], program.device, PAGE_SIZE) for one in sequences)
    return torch.cat([program.forward(step, []) for step in steps])


def _paged(program: Program, sequences: Sequence[Sequence[int]]) -> Tensor:
    """All but the last tokens of every sequence in one step, then one token of each in every further step."""
    pages_each = -(-max(map(len, sequences)) // PAGE_SIZE)
    cache = program.new_cache(len(sequences) * pages_each, PAGE_SIZE)
    parts: list[list[Tensor]] = [[] for _ in sequences]
    for chunks, starts in _steps(sequences):
        logits = program.forward(step_inputs(chunks, starts, program.device, PAGE_SIZE, pages_each), cache)
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

"""A model on a device, known well enough to predict."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from autodeploy.choosing import Recipe
from autodeploy.cost import Costs, Fit, Pace, Step, StepShape, fit_memory
from autodeploy.hardware import Gpu
from autodeploy.pipeline import Pass, Stage
from autodeploy.planning.figures import ModelFigures

if TYPE_CHECKING:
    from transformers import PretrainedConfig

CROWD = 4096
"""Tokens of a step that meets every expert."""


@dataclass(frozen=True)
class Estimate:
    """What steps of a model cost on a device."""

    gpu: Gpu
    dtype: torch.dtype
    figures: ModelFigures
    pace: Pace
    _steps: dict[StepShape, Step] = field(default_factory=dict, repr=False, compare=False)

    @property
    def model(self) -> Costs:
        """What its steps cost on any device."""
        return self.figures.costs

    def step(self, shape: StepShape) -> Step:
        """The prediction for a step."""
        if shape not in self._steps:
            self._steps[shape] = self.pace.step(self.model.works(shape), shape.num_requests)
        return self._steps[shape]

    def decode_seconds(self, batch_size: int, context: float) -> float:
        """A step in which each request gets one token."""
        return self.step(StepShape(batch_size, 1, context)).seconds

    def first_token_seconds(self, prompt_len: int, max_num_tokens: int) -> float:
        """A prompt from its arrival to its first token, in chunks."""
        ends = [*range(max_num_tokens, prompt_len, max_num_tokens), prompt_len]
        starts = [0, *ends[:-1]]
        chunks = (StepShape(1, end - start, end) for start, end in zip(starts, ends, strict=True))
        return self.pace.latencies.arrival + sum(self.step(one).seconds for one in chunks)

    @cached_property
    def weight_bytes(self) -> float:
        """All weights, as the program holds them."""
        return self.model.weight_bytes()

    def expert_bytes(self, num_tokens: int = CROWD) -> float:
        """Weights of experts that a step of so many tokens reads, which is all of them if nothing else is said."""
        works = self.model.works(StepShape(1, num_tokens, num_tokens))
        return sum(sum(one.weight_bytes.values()) * one.times for one in works if one.kind == "experts")

    def fit(self, max_batch_size: int, max_num_tokens: int) -> Fit:
        """How the memory is shared out under these settings."""
        return fit_memory(self.gpu, self.model, self.weight_bytes, max_batch_size, max_num_tokens)


def estimate_model(config: PretrainedConfig, gpu: Gpu, dtype: torch.dtype, recipe: Recipe) -> Estimate:
    """Trace a model's first layers for an estimate; UnsupportedError for a model that cannot be traced."""
    from autodeploy.planning.tracing import trace_figures  # it imports what a plan that is kept does without

    device = torch.device("cpu" if gpu.is_cpu else "cuda")
    return Estimate(gpu, dtype, trace_figures(config, dtype, device, deciding_passes(recipe)), Pace.of(gpu))


def deciding_passes(recipe: Recipe) -> tuple[Pass, ...]:
    """The passes of a recipe that decide what a program's operators are."""
    return tuple(one for _, one in recipe.passes if one.stage < Stage.TUNE)

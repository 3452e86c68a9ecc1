"""A model on a device, known well enough to predict: its first layers, traced and optimized without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from transformers import PretrainedConfig

from autodeploy.checkpoints import form_of, outline
from autodeploy.choosing import Recipe
from autodeploy.cost import (
    CostModel,
    Counted,
    Fit,
    Pace,
    Sample,
    Step,
    StepShape,
    count_model,
    fit_memory,
    sample_layers,
)
from autodeploy.discovery import discover, kernel_table
from autodeploy.errors import UnsupportedError
from autodeploy.export import trace_model
from autodeploy.hardware import Gpu
from autodeploy.kernels import KernelTable, reference_kernel
from autodeploy.optimizer import program_spec
from autodeploy.pipeline import Pass, Stage, run_passes
from autodeploy.prepare import prepare
from autodeploy.quantization import Rule
from autodeploy.weights.source import RandomSource

CROWD = 4096
"""Tokens of a step that meets every expert."""
MARKS = "mark_precision"
"""The pass that settles what each projection gets."""


@dataclass(frozen=True)
class Estimate:
    """What steps of a model cost on a device. The figures are of the whole model, though `sample` was traced."""

    config: PretrainedConfig
    gpu: Gpu
    dtype: torch.dtype
    counted: Counted
    sample: Sample
    model: CostModel
    pace: Pace
    _steps: dict[StepShape, Step] = field(default_factory=dict, repr=False, compare=False)

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
    """Trace as many layers of a model as it takes, and run the passes that decide what its operators are.

    Raises UnsupportedError for a model that cannot be traced.
    """
    counted = count_model(config)
    sample = sample_layers(config, counted)
    traced = trace_model(sample.config, dtype)
    device = torch.device("cpu" if gpu.is_cpu else "cuda")
    passes = _as_stored(config, tuple(one for _, one in recipe.passes if one.stage < Stage.TUNE))
    source = outline(RandomSource.of(traced.model), form_of(config))
    graph_module, context = prepare(traced, source, device, planning_kernels(device))
    run_passes(graph_module, passes, context)
    spec = program_spec(replace(traced, config=config), graph_module)
    if spec is None:
        raise UnsupportedError(f"model type {config.model_type!r} is no causal language model")
    twins = frozenset(name for name, owner in context.weights.owners().items() if name != owner)
    model = CostModel(graph_module, spec, sample.times, twins)
    return Estimate(config, gpu, dtype, counted, sample, model, Pace.of(gpu))


def _as_stored(config: PretrainedConfig, passes: Sequence[Pass]) -> Sequence[Pass]:
    """The passes, but that each projection gets what a checkpoint that is quantized already holds."""
    form = form_of(config)
    if form is None or form.scheme is None:
        return passes
    rule = Rule(scheme=form.scheme)
    return tuple(one.model_copy(update={"rules": (rule,)}) if one.name == MARKS else one for one in passes)


def planning_kernels(device: torch.device) -> KernelTable:
    """The kernels to plan with: for the CPU the references alone, since a plan is not worth a compiler's run."""
    if device.type == "cuda":
        return kernel_table(device)
    return KernelTable([reference_kernel(op) for op in discover().ops.values()])

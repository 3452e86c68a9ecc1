"""From a traced model to what passes work on."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule
from transformers import PreTrainedModel

from autodeploy.calibration.result import Calibration
from autodeploy.errors import InputError
from autodeploy.export import Traced
from autodeploy.graph.copy import copy_graph
from autodeploy.kernels import KernelTable
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.resolution import ResolvedRecipe
from autodeploy.weights import WeightPlan
from autodeploy.weights.checkpoint import cache_scales, plan_weights
from autodeploy.weights.source import TensorSource


def prepare(
    traced: Traced,
    source: TensorSource,
    device: torch.device,
    kernels: KernelTable,
    fuel: int | None = None,
    calibration: Calibration | None = None,
) -> tuple[GraphModule, Context]:
    """A copy of the traced graph, and a context with the plan of its weights, as a calibration changes them.

    Raises InputError for less fuel than none.
    """
    if fuel is not None and fuel < 0:
        raise InputError(f"fuel={fuel}: how many rewrites may be done; give 0 or more, or None for all")
    graph_module = copy_graph(traced.graph_module)
    weights = plan_weights(traced.model, source) if isinstance(traced.model, PreTrainedModel) else WeightPlan()
    for name, tensor in traced.constants.items():
        if name not in weights:
            weights.add_constant(name, tensor)
    weights.prune(graph_module)
    scales = cache_scales(source)
    if calibration is not None:
        calibration.lay_over(weights)
        scales |= calibration.scales()
    return graph_module, Context(traced.config, weights, device, fuel, cache_scales=scales, kernels=kernels)


def fitting_passes(traced: Traced, recipe: ResolvedRecipe[Pass, Any]) -> tuple[Pass, ...]:
    """The passes of a recipe that apply: a module on its own is called, not served, and so gets no cache."""
    passes = tuple(one for _, one in recipe.passes)
    if isinstance(traced.model, PreTrainedModel):
        return passes
    return tuple(one for one in passes if one.stage is not Stage.CACHE)

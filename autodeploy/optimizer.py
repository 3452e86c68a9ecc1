"""Trace and optimize: the two steps of a build that need no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from transformers import PretrainedConfig, PreTrainedModel

from autodeploy.errors import InputError, nearest
from autodeploy.export import Traced, load_config, trace_model, trace_module
from autodeploy.hardware import GpuChoice, choose_gpu
from autodeploy.hub import resolve
from autodeploy.kernels import KernelTable, builtin_kernels
from autodeploy.pipeline import Context, Pass, PassReport, Stage, run_passes
from autodeploy.plugin import discover
from autodeploy.program import ProgramSpec, cache_specs
from autodeploy.recipe import Target, find_recipes
from autodeploy.resolution import ResolvedRecipe
from autodeploy.resolution import resolve as resolve_recipe
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.weights import WeightPlan, plan_weights
from autodeploy.weights.source import RandomSource, TensorSource

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
)
Recipe = ResolvedRecipe[Pass, RuntimeSettings]


@dataclass(frozen=True)
class Optimized:
    """An optimized graph, what its weights are made of, and how it came to be."""

    graph_module: GraphModule
    weights: WeightPlan
    history: tuple[PassReport, ...]
    recipe: Recipe
    spec: ProgramSpec | None
    """What the runtime must know; None for a module that is no causal language model."""


def choose_dtype(name: str, gpu: GpuChoice, config: PretrainedConfig) -> tuple[torch.dtype, str]:
    """The dtype that `name` ("auto", "bf16", "fp16", "fp32") means on a device, and why; InputError when unknown."""
    if name != "auto":
        if name not in DTYPES:
            raise InputError(f"--dtype {name}: not a choice; {nearest(name, ['auto', *DTYPES])}")
        return DTYPES[name], f"--dtype {name}"
    if gpu.gpu.is_cpu:
        if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
            return torch.bfloat16, "the CPU multiplies bf16, which halves the bytes a step reads"
        return torch.float32, "the CPU has no bf16 instructions"
    if "bf16" not in gpu.gpu.tflops:
        return torch.float16, f"{gpu.gpu.name} has no bf16"
    stored = getattr(config, "dtype", None)
    if stored is torch.float16:
        return torch.float16, "the checkpoint is in fp16"
    return torch.bfloat16, "half the bytes of fp32"


def resolve_settings(
    config: PretrainedConfig, gpu: GpuChoice, *, recipe: str, workload: str, values: Mapping[str, Any]
) -> Recipe:
    """The recipe for a model on a device; RecipeError for a name or value that is not valid."""
    registry = discover()
    target = Target(config.model_type, gpu.gpu.name, workload)
    return resolve_recipe(
        target,
        passes=registry.passes,
        runtime=RuntimeSettings,
        recipes=find_recipes(registry.recipes.values()),
        recipe=recipe,
        set_values=values,
    )


def trace(
    model: str | PretrainedConfig | nn.Module,
    *inputs: Tensor,
    dtype: str = "fp32",
    dynamic: Sequence[Mapping[int, str]] | None = None,
) -> Traced:
    """Trace a model of the Hub, a folder, a GGUF or a config, without its weights; or a module, called with `inputs`.

    `dtype` is for the former, `dynamic` for the latter, as `autodeploy.export.trace_module` takes it. Raises ModelError
    when the reference leads nowhere, and UnsupportedError when the model cannot be traced.
    """
    if isinstance(model, nn.Module):
        return trace_module(model, *inputs, dynamic=dynamic)
    config = model if isinstance(model, PretrainedConfig) else load_config(resolve(model, weights=False).folder)
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}: not a choice; {nearest(dtype, DTYPES)}")
    return trace_model(config, DTYPES[dtype])


def optimize(
    traced: Traced,
    recipe: str | Recipe = "auto",
    gpu: str = "auto",
    *,
    workload: str = "balanced",
    set: Mapping[str, Any] = MappingProxyType({}),  # noqa: A002 (the command line's name)
    source: TensorSource | None = None,
    fuel: int | None = None,
    observe: Callable[[PassReport], None] = lambda _: None,
) -> Optimized:
    """Run a recipe's passes over a traced model. The graph of `traced` is left as it is.

    `source` gives the checkpoint's tensors, by name and shape; without one, weights are random. `fuel` bounds the
    number of rewrites. Raises RecipeError for a recipe, device or option that is not valid.
    """
    choice = choose_gpu(gpu)
    if isinstance(recipe, str):
        recipe = resolve_settings(traced.config, choice, recipe=recipe, workload=workload, values=set)
    graph_module = _copy(traced.graph_module)
    weights = WeightPlan()
    if isinstance(traced.model, PreTrainedModel):
        weights = plan_weights(traced.model, source or RandomSource.of(traced.model))
    for name, tensor in traced.constants.items():
        if name not in weights:
            weights.add_constant(name, tensor)
    weights.prune(graph_module)
    device = torch.device("cpu" if choice.gpu.is_cpu else "cuda")
    context = Context(traced.config, weights, device, fuel, kernels=kernel_table(device))
    passes = [one for _, one in recipe.passes]
    if not isinstance(traced.model, PreTrainedModel):  # a module on its own is called, not served: it has no cache
        passes = [one for one in passes if one.stage is not Stage.CACHE]
    history = run_passes(graph_module, passes, context, observe)
    spec = _spec(traced, graph_module)
    return Optimized(graph_module, weights, tuple(history), recipe, spec)


def kernel_table(device: torch.device) -> KernelTable:
    """Our kernels and those of installed plugins."""
    return builtin_kernels(device.type) + tuple(discover().kernels.values())  # type: ignore[arg-type]


def _copy(graph_module: GraphModule) -> GraphModule:
    """A graph of its own over the same meta tensors, with the same values."""
    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(graph_module.graph, {}))
    return GraphModule(graph_module, graph)


def _spec(traced: Traced, graph_module: GraphModule) -> ProgramSpec | None:
    if not isinstance(traced.model, PreTrainedModel):
        return None
    text = traced.config.get_text_config()
    limits = [limit for limit in (_max_positions(text), traced.max_model_len) if limit]
    return ProgramSpec(int(text.vocab_size), min(limits), cache_specs(graph_module.graph))


def _max_positions(config: PretrainedConfig) -> int:
    """Tokens that the model was made for; a config that does not say is taken to mean any number of them."""
    return int(getattr(config, "max_position_embeddings", None) or 1 << 20)

"""What is chosen for a model on a device before its graph is touched: the dtype and the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from autodeploy.discovery import discover
from autodeploy.errors import InputError, UnsupportedError, nearest
from autodeploy.hardware import Gpu, GpuChoice
from autodeploy.layers import Choice
from autodeploy.pipeline import Pass
from autodeploy.quantization.option import quantize_values
from autodeploy.recipe import Target
from autodeploy.resolution import ResolvedRecipe
from autodeploy.resolution import resolve as resolve_recipe
from autodeploy.runtime.settings import RuntimeSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from autodeploy.planning.facts import Facts

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
)
Recipe = ResolvedRecipe[Pass, RuntimeSettings]


def target_device(choice: GpuChoice) -> torch.device:
    """What a device of the hardware table is to torch."""
    return torch.device("cpu" if choice.gpu.is_cpu else "cuda")


def choose_dtype(name: str, gpu: GpuChoice, config: PretrainedConfig | Facts) -> tuple[torch.dtype, str]:
    """The dtype that `name` ("auto", "bf16", "fp16", "fp32") means on a device, and why; InputError when unknown."""
    if name != "auto":
        if name not in DTYPES:
            raise InputError(f"--dtype {name}: not a choice; {nearest(name, ['auto', *DTYPES])}")
        _refuse_dtype(name, gpu.gpu)
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


def _refuse_dtype(name: str, gpu: Gpu) -> None:
    if name == "bf16" and not gpu.is_cpu and "bf16" not in gpu.features:
        raise UnsupportedError(f"--dtype bf16: {gpu.name} has no bf16, which came with capability 8.0; use fp16")


def resolve_settings(
    config: PretrainedConfig | Facts,
    gpu: GpuChoice,
    *,
    recipe: str,
    workload: str,
    values: Mapping[str, Any],
    quantize: str | None = None,
    planned: Sequence[Choice] = (),
) -> Recipe:
    """The recipe for a model on a device; RecipeError for a name or value that is not valid.

    `quantize` names the scheme of what no rule names. `planned` are the settings that a cost model has chosen; recipes
    that the user names lie over them.
    """
    registry = discover()
    target = Target(config.model_type, gpu.gpu.name, workload)
    resolved: Recipe = resolve_recipe(
        target,
        passes=registry.passes,
        runtime=RuntimeSettings,
        recipes=registry.recipes,
        recipe=recipe,
        set_values={**quantize_values(quantize), **values},
        planned=planned,
        providers={name: f"{one.plugin} ({one})" for (kind, name), one in registry.origins.items() if kind == "passes"},
    )
    return replace(resolved, notes=(*resolved.notes, *map(str, registry.problems)))

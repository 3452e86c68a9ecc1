"""The figures of a model: its first layers, traced and optimized without weights.

It takes transformers and torch.export, whose imports are slower than the tracing: what was found before is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch.fx import Node
from transformers import PretrainedConfig

from autodeploy.checkpoints import form_of, outline
from autodeploy.cost.model import CostModel
from autodeploy.cost.sample import count_model, sample_layers
from autodeploy.cost.tally import Tally
from autodeploy.cost.work import attends
from autodeploy.discovery import discover, kernel_table
from autodeploy.errors import UnsupportedError
from autodeploy.export import trace_model
from autodeploy.graph.nodes import arguments, value
from autodeploy.kernels import KernelTable, reference_kernel
from autodeploy.optimizer import program_spec
from autodeploy.pipeline import Pass, run_passes
from autodeploy.planning.figures import ModelFigures
from autodeploy.prepare import prepare
from autodeploy.quantization import Rule
from autodeploy.weights.source import RandomSource

MARKS = "mark_precision"
"""The pass that settles what each projection gets."""


def trace_figures(
    config: PretrainedConfig, dtype: torch.dtype, device: torch.device, passes: Sequence[Pass]
) -> ModelFigures:
    """Trace as many layers of a model as it takes, and run the passes that decide what its operators are.

    Raises UnsupportedError for a model that cannot be traced.
    """
    counted = count_model(config)
    sample = sample_layers(config, counted)
    traced = trace_model(sample.config, dtype)
    source = outline(RandomSource.of(traced.model), form_of(config))
    graph_module, context = prepare(traced, source, device, planning_kernels(device))
    run_passes(graph_module, _as_stored(config, passes), context)
    spec = program_spec(replace(traced, config=config), graph_module)
    if spec is None:
        raise UnsupportedError(f"model type {config.model_type!r} is no causal language model")
    twins = frozenset(name for name, owner in context.weights.owners().items() if name != owner)
    model = CostModel(graph_module, spec, sample.times, twins)
    return ModelFigures(
        config.model_type,
        counted.num_parameters,
        sample.num_layers,
        len(set(counted.layers)),
        _attention(model),
        Tally.of(model) or model,
    )


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


def _attention(model: CostModel) -> str:
    """How queries share keys, and how far they see, by layer."""
    kinds: dict[str, float] = defaultdict(float)
    for node in filter(attends, model.graph_module.graph.nodes):
        kinds[_kind(node)] += model.times(node)
    ordered = sorted(kinds.items(), key=lambda pair: -pair[1])
    parts = [f"{count:.0f} layers of {kind}" if len(kinds) > 1 else kind for kind, count in ordered]
    return "; ".join(parts) or "none"


def _kind(node: Node) -> str:
    named = arguments(node)
    q, keys, values = (value(named[name]) for name in ("q", "key_pages", "value_pages"))
    heads, shared, width = int(q.shape[-2]), int(keys.shape[1]), int(keys.shape[3])
    if heads == shared:
        kind = f"multi-head attention, {heads} heads"
    elif shared == 1:
        kind = f"multi-query attention, {heads} heads"
    else:
        kind = f"grouped-query attention, {heads} heads on {shared}"
    size = f"{kind} of {width}" if values.shape[3] == width else f"{kind} of {width} and {int(values.shape[3])}"
    return size if named["window"] is None else f"{size}, window {named['window']:,}"

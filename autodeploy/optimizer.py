"""Trace and optimize: the two steps of a build that need no weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from transformers import PretrainedConfig, PreTrainedModel

from autodeploy.calibration.result import Calibration
from autodeploy.choosing import DTYPES, Recipe, resolve_settings, target_device
from autodeploy.discovery import kernel_table
from autodeploy.errors import InputError, UnsupportedError, nearest
from autodeploy.export import Traced, load_config, trace_model, trace_module
from autodeploy.graph.copy import copy_graph
from autodeploy.graph.diff import GraphDiff, diff_graphs
from autodeploy.hardware import choose_gpu
from autodeploy.hub import resolve
from autodeploy.pipeline import PassReport, run_passes
from autodeploy.prepare import fitting_passes, prepare
from autodeploy.program import Program, ProgramSpec, cache_specs
from autodeploy.quantization.option import TECHNIQUES
from autodeploy.rewrite import Place
from autodeploy.runtime.tokenizer import Tokenizer
from autodeploy.tuning import Tuning
from autodeploy.verify import Verification
from autodeploy.verify.model import model_samples, verify_passes
from autodeploy.weights import WeightPlan
from autodeploy.weights.source import RandomSource, TensorSource


@dataclass(frozen=True)
class Compiled:
    """An optimized graph, what its weights are made of, and how it came to be."""

    graph_module: GraphModule
    weights: WeightPlan
    history: tuple[PassReport, ...]
    recipe: Recipe
    spec: ProgramSpec | None
    """What the runtime must know; None for a module that is no causal language model."""
    leftovers: tuple[Place, ...]
    """What CANONICALIZE left in primitive form, in a model that no recipe lists."""
    tuning: Tuning
    """Which kernels TUNE has chosen."""


@dataclass(frozen=True)
class Optimized(Compiled):
    """A compiled graph together with what it was made from, so that every pass can be watched and checked."""

    traced: Traced = field(repr=False)
    source: TensorSource = field(repr=False)
    device: torch.device
    fuel: int | None = None

    @cached_property
    def program(self) -> Program:
        """The graph with its weights, which are read now, on its device; InputError when that is not here."""
        return make_program(self, self.source, self.device)

    def diff(self, index: int) -> GraphDiff:
        """What pass `index` of the history changed; the passes up to it run again. Negative ones count back.

        Raises InputError when there is no such pass.
        """
        passes = fitting_passes(self.traced, self.recipe)
        if not -len(passes) <= index < len(passes):
            raise InputError(f"diff({index}): the history has passes 0 to {len(passes) - 1}")
        last = index % len(passes)
        gm, context = prepare(self.traced, self.source, self.device, kernel_table(self.device), self.fuel)
        before = [] if last else [copy_graph(gm).graph]

        def keep(report: PassReport) -> None:
            done.append(report)
            if len(done) == last:
                before.append(copy_graph(gm).graph)

        done: list[PassReport] = []
        run_passes(gm, passes[: last + 1], context, keep)
        return diff_graphs(f"{last}: {passes[last].name}", before[0], gm.graph)

    def _repr_html_(self) -> str:
        """How it looks in a notebook: the graph, the passes, the roofline, and the memory plan."""
        from autodeploy.inspect import view  # views know results, not the other way round

        return view(self)._repr_html_()

    def verify(self, *, tokenizer: Tokenizer | None = None) -> Verification:
        """Run the graph before and after each pass, in float32 and in its dtype, and compare the logits.

        `tokenizer` gives the tokens of real text; without one, words are hashed to ids. Raises VerificationError, whose
        `finding` names the pass and the rewrite that moved the numbers further than the pass declares.
        """
        return verify_passes(
            self.traced,
            fitting_passes(self.traced, self.recipe),
            source=self.source,
            samples=model_samples(self.traced, tokenizer),
            device=self.device,
            kernels=kernel_table(self.device),
            fuel=self.fuel,
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
    quantize: str | None = None,
    set: Mapping[str, Any] = MappingProxyType({}),  # noqa: A002 (the command line's name)
    source: TensorSource | None = None,
    fuel: int | None = None,
    observe: Callable[[PassReport], None] | None = None,
) -> Optimized:
    """Run a recipe's passes over a traced model. The graph of `traced` is left as it is.

    The result has a report of each pass in `.history`; `.diff(i)` shows what pass `i` changed, `.verify()` proves that
    all kept the numbers, and `.program` is ready to run. `source` gives the checkpoint's tensors, by name and shape;
    without one, weights are random. `quantize` names a scheme. `fuel` bounds the number of rewrites. Raises
    RecipeError for a recipe, device or option that is not valid.
    """
    choice = choose_gpu(gpu)
    if quantize in TECHNIQUES:
        raise InputError(f"optimize(quantize={quantize!r}): it is calibrated on text, which only build does")
    if isinstance(recipe, str):
        options: dict[str, Any] = {"recipe": recipe, "workload": workload, "quantize": quantize}
        recipe = resolve_settings(traced.config, choice, **options, values=set)
    source = source or RandomSource.of(traced.model)
    device = target_device(choice)
    compiled = compile_graph(traced, recipe, source, device, fuel=fuel, observe=observe)
    return Optimized(**vars(compiled), traced=traced, source=source, device=device, fuel=fuel)


def compile_graph(
    traced: Traced,
    recipe: Recipe,
    source: TensorSource,
    device: torch.device,
    *,
    fuel: int | None = None,
    calibration: Calibration | None = None,
    observe: Callable[[PassReport], None] | None = None,
) -> Compiled:
    """Run the passes of `recipe` on a copy of the traced graph. The result does not hold on to `traced`."""
    graph_module, context = prepare(traced, source, device, kernel_table(device), fuel, calibration)
    context.leaves_nothing = recipe.leaves_nothing
    history = tuple(run_passes(graph_module, fitting_passes(traced, recipe), context, observe))
    spec = program_spec(traced, graph_module)
    return Compiled(graph_module, context.weights, history, recipe, spec, context.leftovers, context.tuning)


def make_program(compiled: Compiled, source: TensorSource, device: torch.device) -> Program:
    """Read the weights of a compiled graph onto its device; InputError when that is not here."""
    if compiled.spec is None:
        raise UnsupportedError("a module on its own has no program: call its .graph_module")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("the graph is for a CUDA device, and this machine has none; take the device cpu")
    weights = compiled.weights.read(source, device)
    table = kernel_table(device)
    return Program(compiled.graph_module, weights, table, device, compiled.spec, tuning=compiled.tuning)


def program_spec(traced: Traced, graph_module: GraphModule) -> ProgramSpec | None:
    """What the runtime must know of a graph with a cache; None for a module that is no causal language model."""
    if not isinstance(traced.model, PreTrainedModel):
        return None
    text = traced.config.get_text_config()
    limits = [limit for limit in (_max_positions(text), traced.max_model_len) if limit]
    return ProgramSpec(int(text.vocab_size), min(limits), cache_specs(graph_module.graph))


def _max_positions(config: PretrainedConfig) -> int:
    """Tokens that the model was made for; a config that does not say is taken to mean any number of them."""
    return int(getattr(config, "max_position_embeddings", None) or 1 << 20)

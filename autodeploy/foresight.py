"""Which kernels an engine will launch: noted where its artifact is built, so that they compile before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Graph

from autodeploy.discovery import kernel_table
from autodeploy.kernels import triton
from autodeploy.program import Program
from autodeploy.runtime.compiler import noted
from autodeploy.runtime.core import captured
from autodeploy.runtime.foreseen import Foreseen
from autodeploy.runtime.graphs import Bucket, large_buckets
from autodeploy.runtime.model import Model
from autodeploy.runtime.rehearsal import rehearse
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.tuning.store import conditions

if TYPE_CHECKING:  # which needs transformers
    from autodeploy.optimizer import Compiled


def foresee(compiled: Compiled, device: torch.device) -> Foreseen | None:
    """The kernels of an engine over a compiled model; None where it captures nothing, or its GPU is not here, or full.

    They are those of every step that is captured, and of large ones of one request and of many: with time, unlike at a
    start, none need be left out.
    """
    if device.type != "cuda" or not torch.cuda.is_available() or triton.why_unavailable() is not None:
        return None
    assert compiled.spec is not None, "a model that is served has a spec"
    settings = RuntimeSettings(**compiled.recipe.as_dict()["runtime"])
    graph_module = compiled.graph_module
    try:
        weights = _stand_ins(graph_module.graph, device)
        program = Program(graph_module, weights, kernel_table(device), device, compiled.spec, tuning=compiled.tuning)
        steps = rehearsed(program, settings)
        if not steps:
            return None
        target, kernels = noted(rehearse(program, settings, (*steps, *uncaptured(settings))))
    except torch.OutOfMemoryError:  # whoever loads it looks again
        return None
    return Foreseen(conditions_of(device, settings, steps), target, kernels)


def uncaptured(settings: RuntimeSettings) -> tuple[Bucket, ...]:
    """Steps that are launched as they come: a long prompt, which the cache's size is found by, too; as many requests as
    there may be, mostly with prompts and mostly without."""
    tokens, most = settings.max_num_tokens, settings.max_batch_size
    many = max(1, min(most, tokens // 2))
    return tuple(dict.fromkeys((Bucket(tokens, 1), Bucket(tokens, many), Bucket(min(2 * many, tokens), many))))


def rehearsed(model: Model, settings: RuntimeSettings) -> tuple[Bucket, ...]:
    """The steps whose kernels are compiled ahead: those that are captured, and the largest; none without the former."""
    found = captured(model, settings)
    return (*found, *large_buckets(settings.max_num_tokens)) if found else ()


def conditions_of(device: torch.device, settings: RuntimeSettings, steps: Sequence[Bucket]) -> dict[str, Any]:
    """All that decides, for one program, which kernels `rehearse` finds, as JSON data."""
    taken = {"page_size": settings.page_size, "max_model_len": settings.max_model_len}
    return {"device": dict(conditions(device)), **taken, "steps": [list(one) for one in steps]}


def _stand_ins(graph: Graph, device: torch.device) -> dict[str, Tensor]:
    """For each weight zeros of its shape and dtype, all in the same memory."""
    wanted = {str(node.target): node.meta["val"] for node in graph.find_nodes(op="get_attr")}
    sizes = {name: prod(one.shape) * one.dtype.itemsize for name, one in wanted.items()}
    memory = torch.zeros(max(sizes.values(), default=0), dtype=torch.uint8, device=device)
    return {name: memory[: sizes[name]].view(one.dtype).reshape(one.shape) for name, one in wanted.items()}

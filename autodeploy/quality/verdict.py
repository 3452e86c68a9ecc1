"""Judging a build by what it loses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph

from autodeploy.errors import InputError, QualityError
from autodeploy.graph.nodes import calls_of
from autodeploy.optimizer import Compiled
from autodeploy.progress import Progress
from autodeploy.quality.assessment import Assessment
from autodeploy.quality.search import Limits
from autodeploy.weights import Quantized

ops = torch.ops.autodeploy
_QUANTIZED = (ops.packed_linear.default, ops.packed_gated_linear.default, ops.scaled_linear.default)
NUM_TOLD = 3


def is_quantized(graph: Graph) -> bool:
    """Whether a graph has projections by quantized weights."""
    return bool(calls_of(graph, *_QUANTIZED))


def is_rounded(compiled: Compiled) -> bool:
    """Whether a build quantized projections: not where all that are quantized came so from the checkpoint."""
    ours = any(isinstance(one, Quantized) for one in compiled.weights.values())
    return ours and is_quantized(compiled.graph_module.graph)


def needed(assessment: Assessment | str, asked_by: str) -> Assessment:
    """The assessment; InputError, with the reason, where there is none."""
    if isinstance(assessment, str):
        raise InputError(f"{asked_by}: the loss cannot be measured, for {assessment}")
    return assessment


def judge(
    assessment: Assessment | str, compiled: Compiled, limits: Limits, progress: Progress
) -> dict[str, Any] | None:
    """The quality of a compiled graph as JSON data; None, with a note, where nothing can measure it.

    Raises QualityError for a program past the limits, and InputError for limits that nothing can measure.
    """
    if isinstance(assessment, str) and limits == Limits():
        progress.note(f"what quantization costs was not measured: {assessment}")
        return None
    assessment = needed(assessment, "--max-kl, --min-agreement")
    quality = assessment.quality(compiled)
    progress.note(str(quality))
    reason = limits.why_not(quality)
    if reason is not None:
        raise QualityError(f"{reason}; --quantize auto finds what keeps to it")
    layers = assessment.layers()
    progress.note(f"the layers that lose most by themselves: {_dearest(layers)}")
    return {**quality.as_dict(), "text": assessment.text_name, "layers": layers}


def _dearest(layers: Mapping[str, float]) -> str:
    ranked = sorted(layers.items(), key=lambda item: -item[1])[:NUM_TOLD]
    return ", ".join(f"{name} {loss:.4f}" for name, loss in ranked) + " nats a token"

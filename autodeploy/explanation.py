"""What a pattern did to a model: where it matched, and why it did not where it looked as if it should."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from autodeploy.choosing import Recipe, choose_dtype, resolve_settings, target_device
from autodeploy.discovery import discover
from autodeploy.errors import AutodeployError, InputError, nearest
from autodeploy.export import Traced, load_config, trace_model
from autodeploy.hardware import choose_gpu
from autodeploy.hub import resolve
from autodeploy.leftovers import describe
from autodeploy.optimizer import compile_graph
from autodeploy.pipeline import PassReport
from autodeploy.progress import NullProgress, Progress, stage
from autodeploy.rewrite import Miss, Place
from autodeploy.weights.source import RandomSource


@dataclass(frozen=True)
class PatternExplanation:
    """What became of one pattern in the `passes` that try it; `notes` are what the user should know besides."""

    model: str
    pattern: str
    doc: str
    passes: tuple[str, ...]
    places: tuple[Place, ...]
    misses: tuple[Miss, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The explanation as JSON data."""
        return {
            "model": self.model,
            "pattern": self.pattern,
            "passes": list(self.passes),
            "matches": [vars(place) for place in self.places],
            "misses": [miss.as_dict() for miss in self.misses],
            "notes": list(self.notes),
        }


def explain_pattern(
    model: str,
    name: str,
    *,
    gpu: str = "auto",
    dtype: str = "auto",
    recipe: str = "auto",
    workload: str = "balanced",
    quantize: str | None = None,
    set: Mapping[str, Any] = MappingProxyType({}),  # noqa: A002 (the command line's name)
    progress: Progress | None = None,
) -> PatternExplanation:
    """Trace a model, run a recipe's passes and tell what the pattern `name` did. The model's weights are not read.

    Passes that fail after the pattern was tried become a note. Raises InputError for a pattern, model or option that
    is not valid.
    """
    patterns, progress = discover().patterns, progress or NullProgress()
    if name not in patterns:
        raise InputError(f"--pattern {name}: there is no such pattern; {nearest(name, patterns)}")
    choice = choose_gpu(gpu)
    config = load_config(resolve(model, weights=False).folder)
    options: dict[str, Any] = {"recipe": recipe, "workload": workload, "quantize": quantize}
    resolved = resolve_settings(config, choice, **options, values=set)
    with stage(progress, "export"):
        traced = trace_model(config, choose_dtype(dtype, choice, config)[0])
    with stage(progress, "passes"):
        tried, notes = _try(name, traced, resolved, target_device(choice))
    return PatternExplanation(
        model=model,
        pattern=name,
        doc=patterns[name].doc.partition("\n")[0],
        passes=tuple(dict.fromkeys(report.name for report in tried)),
        places=tuple(place for report in tried for place in report.places if place.rule == name),
        misses=tuple(miss for report in tried for miss in report.misses if miss.rule == name),
        notes=tuple(notes),
    )


def _try(name: str, traced: Traced, recipe: Recipe, device: torch.device) -> tuple[list[PassReport], list[str]]:
    """The reports of the passes that tried the pattern `name`, and what the user should know besides."""
    reports: list[PassReport] = []
    try:
        source = RandomSource.of(traced.model)
        notes = describe(compile_graph(traced, recipe, source, device, observe=reports.append).leftovers)
    except AutodeployError as error:
        if not any(name in report.rules for report in reports):
            raise
        notes = [f"the passes stop later: {error}"]
    tried = [report for report in reports if name in report.rules]
    return tried, notes if tried else [*notes, f"no pass of the recipe applies {name}"]

"""From a model reference to an artifact."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import PretrainedConfig

from autodeploy import artifact
from autodeploy.artifact import Artifact
from autodeploy.artifact.manifest import versions
from autodeploy.errors import ArtifactError
from autodeploy.export import load_config, trace_model
from autodeploy.hardware import GpuChoice, choose_gpu
from autodeploy.hub import ModelFiles, resolve
from autodeploy.optimizer import Optimized, Recipe, choose_dtype, optimize, resolve_settings
from autodeploy.pipeline import PassReport
from autodeploy.plan import Decision, Plan, recipe_decisions
from autodeploy.progress import NullProgress, Progress, stage
from autodeploy.weights.source import RandomSource, SafetensorsSource, TensorSource

_NONE: Mapping[str, Any] = MappingProxyType({})


class _Job:
    """What a build is going to do: everything that is decided before the model is traced."""

    def __init__(
        self, model: str, *, gpu: str, dtype: str, recipe: str, workload: str, values: Mapping[str, Any], weights: bool
    ) -> None:
        self.choice: GpuChoice = choose_gpu(gpu)
        self.files: ModelFiles = resolve(model, weights=weights)
        self.config: PretrainedConfig = load_config(self.files.folder)
        self.dtype, self.dtype_reason = choose_dtype(dtype, self.choice, self.config)
        self.recipe: Recipe = resolve_settings(
            self.config, self.choice, recipe=recipe, workload=workload, values=values
        )

    def plan(self) -> Plan:
        """The decisions, each with its reason."""
        revision = f" at {self.files.revision}" if self.files.revision else ""
        decisions = (
            Decision(
                "model", f"{self.config.model_type}{revision}", f"{self.files.reference} is a {self.files.origin}"
            ),
            Decision("device", self.choice.gpu.name, self.choice.reason),
            Decision("dtype", str(self.dtype).removeprefix("torch."), self.dtype_reason),
            *recipe_decisions(self.recipe),
        )
        return Plan(self.files.reference, decisions, (*self.recipe.notes, *self._notes()))

    def _notes(self) -> list[str]:
        if self.choice.gpu.is_cpu or torch.cuda.is_available():
            return []
        return [f"this machine has no CUDA device: the artifact is built for {self.choice.gpu.name} and tuned there"]

    def fingerprint(self, load_format: str, fuel: int | None) -> str:
        """A name for the result: two builds with the same one write the same artifact."""
        parts = {
            "model": _identity(self.files),
            "dtype": str(self.dtype),
            "gpu": self.choice.gpu.name,
            "recipe": self.recipe.fingerprint,
            "load_format": load_format,
            "fuel": fuel,
            "versions": versions(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def plan(
    model: str,
    *,
    gpu: str = "auto",
    dtype: str = "auto",
    recipe: str = "auto",
    workload: str = "balanced",
    set: Mapping[str, Any] = _NONE,  # noqa: A002 (the command line's name)
    progress: Progress | None = None,
) -> Plan:
    """Decide everything that a build would, and build nothing; a Hub model's weights are not downloaded."""
    with stage(progress or NullProgress(), "resolve"):
        return _Job(model, gpu=gpu, dtype=dtype, recipe=recipe, workload=workload, values=set, weights=False).plan()


def build(
    model: str,
    *,
    out: str | Path,
    gpu: str = "auto",
    dtype: str = "auto",
    recipe: str = "auto",
    workload: str = "balanced",
    set: Mapping[str, Any] = _NONE,  # noqa: A002 (the command line's name)
    load_format: str = "auto",
    fuel: int | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Trace a model, run a recipe's passes over it, and write the program to the folder `out`.

    An artifact of the same model, recipe and versions that is there already is checked and kept. `load_format`
    "random" takes random weights instead of the checkpoint's. Raises InputError (or one of its kinds) for a model,
    option or folder that is not valid.
    """
    progress = progress or NullProgress()
    out = Path(out)
    artifact.check_target(out)
    with stage(progress, "resolve"):
        job = _Job(
            model,
            gpu=gpu,
            dtype=dtype,
            recipe=recipe,
            workload=workload,
            values=set,
            weights=load_format != "random",
        )
    progress.plan(job.plan())
    fingerprint = job.fingerprint(load_format, fuel)
    kept = _same(out, fingerprint)
    if kept is not None:
        progress.note(f"{out} holds this very build already; it was checked and kept")
        return kept
    optimized, source = _optimize(job, load_format, fuel, progress)
    assert optimized.spec is not None, "a model of transformers has a spec"
    gc.collect()  # the traced graph is cyclic, and would take its place in memory beside the weights
    with stage(progress, "weights"):
        return artifact.save(
            out,
            name=job.files.reference,
            graph=optimized.graph_module,
            weights=optimized.weights,
            source=source,
            config=job.config.to_dict(),
            dtype=str(job.dtype).removeprefix("torch."),
            devices=("cpu" if job.choice.gpu.is_cpu else "cuda",),
            recipe=optimized.recipe.as_dict(),
            history=[report.as_dict() for report in optimized.history],
            details={"fingerprint": fingerprint, "gpu": job.choice.gpu.name, "program": optimized.spec.as_dict()},
            assets=artifact.tokenizer_assets(job.files.folder),
        )


def _optimize(job: _Job, load_format: str, fuel: int | None, progress: Progress) -> tuple[Optimized, TensorSource]:
    """Trace the model and run the recipe's passes; also where its weights will be read from."""
    with stage(progress, "export"):
        traced = trace_model(job.config, job.dtype)
    source: TensorSource
    source = RandomSource.of(traced.model) if load_format == "random" else SafetensorsSource(job.files.folder)
    observe = _reporter(progress)
    return optimize(traced, job.recipe, job.choice.gpu.name, source=source, fuel=fuel, observe=observe), source


def _reporter(progress: Progress) -> Callable[[PassReport], None]:
    def observe(report: PassReport) -> None:
        progress.start(f"pass {report.name}")
        progress.finish(f"pass {report.name}", f"{report.matches} matches, {report.seconds:.1f} s")

    return observe


def _same(out: Path, fingerprint: str) -> Artifact | None:
    """The artifact at `out`, undamaged, when it is what this build would write."""
    if not out.is_dir() or not any(out.iterdir()):
        return None
    try:
        found = artifact.load(out)
    except ArtifactError:
        return None  # damaged, or of another format: build it again
    return found if found.manifest.details.get("fingerprint") == fingerprint else None


def _identity(files: ModelFiles) -> list[Any]:
    """What changes when the model's files do: a commit, or the name, size and time of each file."""
    if files.revision is not None:
        return [files.reference, files.revision]
    found = sorted(file for file in files.folder.iterdir() if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in found]

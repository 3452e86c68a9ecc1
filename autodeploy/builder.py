"""From a model reference to an artifact."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from autodeploy import artifact
from autodeploy.artifact import Artifact
from autodeploy.artifact.manifest import MANIFEST, versions
from autodeploy.discovery import discover, kernel_table
from autodeploy.errors import ArtifactError, ModelError, UnsupportedError
from autodeploy.export import Traced, load_config, trace_model
from autodeploy.hardware import GpuChoice, choose_gpu
from autodeploy.hub import ModelFiles, resolve
from autodeploy.leftovers import describe
from autodeploy.optimizer import Compiled, Recipe, choose_dtype, compile_graph, resolve_settings, target_device
from autodeploy.pipeline import PassReport, Stage
from autodeploy.plan import Decision, Plan, recipe_decisions
from autodeploy.planning import (
    Estimate,
    Outlook,
    estimate_model,
    look_ahead,
    look_at_weights,
    plan_settings,
    refuse_scheme,
)
from autodeploy.progress import NullProgress, Progress, stage
from autodeploy.quantization import SCHEMES
from autodeploy.verify import Verification
from autodeploy.verify.model import model_samples, verify_passes
from autodeploy.weights.source import RandomSource, SafetensorsSource, TensorSource

_NONE: Mapping[str, Any] = MappingProxyType({})


class Job:
    """What a build is going to do: everything that is decided before the model is traced."""

    def __init__(
        self,
        model: str,
        *,
        gpu: str,
        dtype: str,
        recipe: str,
        workload: str,
        values: Mapping[str, Any],
        weights: bool,
        quantize: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.choice: GpuChoice = choose_gpu(gpu)
        self.device = target_device(self.choice)
        refuse_scheme(self.choice.gpu, quantize)
        self.files: ModelFiles = resolve(model, weights=weights, progress=progress)
        if (self.files.folder / MANIFEST).is_file():
            raise ModelError(f"{model} is an artifact, built already: autodeploy serve {model}")
        self.config: PretrainedConfig = load_config(self.files.folder)
        self.dtype, self.dtype_reason = choose_dtype(dtype, self.choice, self.config)
        self._quantize = quantize
        options: dict[str, Any] = {"recipe": recipe, "workload": workload, "values": values, "quantize": quantize}
        self.recipe: Recipe = resolve_settings(self.config, self.choice, **options)
        if not self.choice.gpu.is_cpu and isinstance(self.estimate, Estimate):
            planned = plan_settings(self.estimate, self.recipe.aims, workload)
            self.recipe = resolve_settings(self.config, self.choice, **options, planned=planned)

    @cached_property
    def estimate(self) -> Estimate | UnsupportedError:
        """What steps of the model cost, or why it cannot be traced."""
        try:
            return estimate_model(self.config, self.choice.gpu, self.dtype, self.recipe)
        except UnsupportedError as error:
            return error

    def outlook(self) -> Outlook:
        """What fits and how fast it will be; UnsupportedError for a model that transformers cannot make."""
        if isinstance(self.estimate, Estimate):
            return look_ahead(self.estimate, self.recipe.runtime, self.recipe.aims.context)
        return look_at_weights(self.config, self.choice.gpu, self.dtype, str(self.estimate))

    def plan(self) -> Plan:
        """The decisions, each with its reason."""
        revision = f" at {self.files.revision}" if self.files.revision else ""
        decisions = (
            Decision(
                "model", f"{self.config.model_type}{revision}", f"{self.files.reference} is a {self.files.origin}"
            ),
            Decision("device", self.choice.gpu.name, self.choice.reason),
            Decision("dtype", str(self.dtype).removeprefix("torch."), self.dtype_reason),
            *_quantization(self._quantize),
            *recipe_decisions(self.recipe),
        )
        notes = (*self.recipe.notes, *self._notes())
        return Plan(self.files.reference, decisions, notes, self.recipe.choices)

    @property
    def origin(self) -> dict[str, str | None]:
        """What the artifact says of the model it was made from: of a Hub model, the commit."""
        return {"reference": self.files.reference, "origin": self.files.origin, "revision": self.files.revision}

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
            "plugins": [str(one) for one in discover().providers()],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _quantization(quantize: str | None) -> tuple[Decision, ...]:
    """What `--quantize` asked for, in words; nothing where it did not."""
    return () if quantize is None else (Decision("quantize", quantize, str(SCHEMES[quantize])),)


def plan(
    model: str,
    *,
    gpu: str = "auto",
    dtype: str = "auto",
    recipe: str = "auto",
    workload: str = "balanced",
    quantize: str | None = None,
    set: Mapping[str, Any] = _NONE,  # noqa: A002 (the command line's name)
    progress: Progress | None = None,
) -> Plan:
    """Decide everything that a build would, and build nothing; a Hub model's weights are not downloaded."""
    options = {"gpu": gpu, "dtype": dtype, "recipe": recipe, "workload": workload}
    progress = progress or NullProgress()
    with stage(progress, "resolve"):
        job = Job(model, **options, quantize=quantize, values=set, weights=False, progress=progress)
    with stage(progress, "plan"):
        return replace(job.plan(), outlook=job.outlook())


def build(
    model: str,
    *,
    out: str | Path,
    gpu: str = "auto",
    dtype: str = "auto",
    recipe: str = "auto",
    workload: str = "balanced",
    quantize: str | None = None,
    set: Mapping[str, Any] = _NONE,  # noqa: A002 (the command line's name)
    load_format: str = "auto",
    fuel: int | None = None,
    verify: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Trace a model, run a recipe's passes over it, and write the program to the folder `out`.

    An artifact of the same model, recipe and versions that is there already is checked and kept. `quantize` names a
    scheme. `load_format` "random" takes random weights instead of the checkpoint's. With `verify` every pass is checked
    first, and what was found is kept in the artifact. Raises InputError (or one of its kinds) for a model, option or
    folder that is not valid, and VerificationError, leaving nothing, for a pass that moves the numbers further than it
    declares.
    """
    progress = progress or NullProgress()
    out = Path(out)
    artifact.check_target(out)
    with stage(progress, "resolve"):
        job = Job(
            model,
            gpu=gpu,
            dtype=dtype,
            recipe=recipe,
            workload=workload,
            quantize=quantize,
            values=set,
            weights=load_format != "random",
            progress=progress,
        )
    progress.plan(job.plan())
    fingerprint = job.fingerprint(load_format, fuel)
    kept = _same(out, fingerprint)
    if kept is not None and (kept.verification or not verify):
        progress.note(f"{out} holds this very build already; it was checked and kept")
        return kept
    traced, source = trace_job(job, load_format, progress)
    details: dict[str, Any] = {"fingerprint": fingerprint, "gpu": job.choice.gpu.name, "model": job.origin}
    if verify:
        details["verification"] = _verify(job, traced, source, fuel, progress).as_dict()
    compiled = compile_graph(traced, job.recipe, source, job.device, fuel=fuel, observe=_reporter(progress))
    for sentence in (*describe(compiled.leftovers), *_told(compiled.history), *compiled.tuning.notes):
        progress.note(sentence)
    del traced
    gc.collect()  # the traced graph is cyclic, and would take its place in memory beside the weights
    with stage(progress, "weights"):
        return _save(out, job, compiled, source, details)


def _told(history: Iterable[PassReport]) -> list[str]:
    """What passes have to tell, but for TUNE, which tells of every measurement."""
    return [note for report in history if report.stage != Stage.TUNE.name for note in report.notes]


def _save(out: Path, job: Job, compiled: Compiled, source: TensorSource, details: Mapping[str, Any]) -> Artifact:
    """Write what was compiled, with how it came to be, and the weights from `source`."""
    assert compiled.spec is not None, "a model of transformers has a spec"
    return artifact.save(
        out,
        name=job.files.reference,
        graph=compiled.graph_module,
        weights=compiled.weights,
        source=source,
        config=job.config.to_dict(),
        dtype=str(job.dtype).removeprefix("torch."),
        devices=(job.device.type,),
        recipe=compiled.recipe.as_dict(),
        history=[report.as_dict() for report in compiled.history],
        details={**details, "program": compiled.spec.as_dict(), "tuning": compiled.tuning.as_dict()},
        assets=artifact.tokenizer_assets(job.files.folder),
    )


def trace_job(job: Job, load_format: str, progress: Progress) -> tuple[Traced, TensorSource]:
    """The traced model, and where its weights will be read from."""
    with stage(progress, "export"):
        traced = trace_model(job.config, job.dtype)
    for sentence in kernel_table(job.device).notes:
        progress.note(sentence)
    if load_format == "random":
        return traced, RandomSource.of(traced.model)
    return traced, SafetensorsSource(job.files.folder)


def _verify(job: Job, traced: Traced, source: TensorSource, fuel: int | None, progress: Progress) -> Verification:
    with stage(progress, "verify"):
        return verify_passes(
            traced,
            [one for _, one in job.recipe.passes],
            source=source,
            samples=model_samples(traced, _tokenizer(job.files.folder)),
            device=job.device,
            kernels=kernel_table(job.device),
            fuel=fuel,
            observe=lambda _: progress.advance("verify"),
        )


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The model's tokenizer; None when it came without one."""
    if not any(folder.glob("tokenizer*")):
        return None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


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
        if found.manifest.details.get("fingerprint") != fingerprint:
            return None
        found.check_weights()
    except ArtifactError:
        return None  # damaged, or of another format: build it again
    return found


def _identity(files: ModelFiles) -> list[Any]:
    """What changes when the model's files do: a commit, or the name, size and time of each file."""
    if files.revision is not None:
        return [files.reference, files.revision]
    found = sorted(file for file in files.folder.iterdir() if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in found]

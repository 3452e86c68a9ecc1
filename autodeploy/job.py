"""What a build is going to do: the model, the device and the recipe, before anything is traced."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from autodeploy.artifact.manifest import MANIFEST, versions
from autodeploy.calibration.request import Request
from autodeploy.checkpoints import read_form
from autodeploy.choosing import Recipe, choose_dtype, resolve_settings, target_device
from autodeploy.cost import Pace
from autodeploy.discovery import discover
from autodeploy.errors import ModelError, UnsupportedError
from autodeploy.hardware import GpuChoice, choose_gpu
from autodeploy.hub import ModelFiles, resolve
from autodeploy.hub.checkpoint import describe_checkpoint
from autodeploy.layers import Choice
from autodeploy.plan import Decision, Plan, checkpoint_decisions, recipe_decisions
from autodeploy.planning import (
    Estimate,
    Facts,
    Fastest,
    Kept,
    Outlook,
    deciding_passes,
    estimate_model,
    fastest_scheme,
    look_ahead,
    look_at_weights,
    plan_batch,
    plan_steps,
    plan_tuning,
    refuse_recipe,
    refuse_scheme,
)
from autodeploy.progress import NullProgress, Progress, stage
from autodeploy.quantization.option import AUTO, FASTEST, scheme_of_option

if TYPE_CHECKING:  # what was planned before is planned again without transformers
    from transformers import PretrainedConfig

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
        refuse_scheme(self.choice.gpu, None if quantize in (AUTO, FASTEST) else quantize)
        packed = quantize is None  # otherwise the numbers that a file stands for are what is quantized, or not
        self.files: ModelFiles = resolve(model, weights=weights, packed=packed, progress=progress)
        if (self.files.folder / MANIFEST).is_file():
            raise ModelError(f"{model} is an artifact, built already: autodeploy serve {model}")
        self._kept = Kept(self.files.folder)
        self.facts: Facts = self._kept.facts() or self._read_facts()
        self.form = read_form(self.facts.quantization)
        self.dtype, self.dtype_reason = choose_dtype(dtype, self.choice, self.facts)
        self._quantize = quantize
        self.searches = quantize == AUTO
        """Whether an assignment of schemes is still to be found, for `adopt`."""
        self._values = dict(values)
        self._options: dict[str, Any] = {"recipe": recipe, "workload": workload}
        self._options["quantize"] = None if quantize in (AUTO, FASTEST) else quantize
        self.recipe: Recipe = self.resolve({})
        refuse_recipe(self.choice.gpu, self.recipe)
        self._plan()
        self._fastest = self._take_fastest() if quantize == FASTEST else None

    @cached_property
    def config(self) -> PretrainedConfig:
        """The config of the model as transformers reads it; ModelError where it can't."""
        from autodeploy.export import load_config

        return load_config(self.files.folder)

    def _read_facts(self) -> Facts:
        facts = Facts.of(self.config)
        if self._is_known:
            self._kept.keep_facts(facts)
        return facts

    @property
    def _is_known(self) -> bool:
        """Whether the model is of transformers' own: another's code may change with no version to tell."""
        return type(self.config).__module__.startswith("transformers.")

    def _plan(self) -> None:
        """Let the cost model choose settings, for a GPU; the figures of CPUs are too round for it."""
        if self.choice.gpu.is_cpu or not isinstance(self.estimate, Estimate):
            return
        workload, aims = self._options["workload"], self.recipe.aims
        planned = plan_batch(self.estimate, aims, workload)
        if planned:  # the user's own batch lies over it, and the rest follows from that
            batch_size = self._resolve_with(planned).runtime.max_batch_size
            planned += plan_steps(self.estimate, aims, workload, batch_size)
        planned += (plan_tuning(self._resolve_with(planned).runtime, workload),)
        self.recipe = self._resolve_with(planned)

    def _resolve_with(self, planned: tuple[Choice, ...]) -> Recipe:
        self._options["planned"] = planned
        return self.resolve({})

    def _take_fastest(self) -> Fastest:
        """Quantize to what is predicted to be fastest under the settings so far, and plan again."""
        if isinstance(self.estimate, UnsupportedError):
            raise self.estimate
        settings = self.recipe.runtime
        found = fastest_scheme(self.estimate, self.recipe.aims, settings.max_batch_size, settings.max_num_tokens)
        self._options |= {"quantize": found.scheme, "planned": ()}
        del self.estimate  # it was of the model as it is
        self.recipe = self.resolve({})
        self._plan()
        return found

    def resolve(self, values: Mapping[str, Any]) -> Recipe:
        """The job's recipe with `values` laid over it."""
        return resolve_settings(self.facts, self.choice, **self._options, values={**self._values, **values})

    def adopt(self, values: Mapping[str, Any]) -> None:
        """Lay `values` over the job's recipe for good."""
        self.recipe = self.resolve(values)

    def calibrates(self, calibrate: str | None, method: str | None) -> Request | None:
        """The calibration that the options ask for, or None; InputError for options without an effect."""
        return Request.of(self._quantize, self._cache_format, calibrate, method)

    @property
    def _cache_format(self) -> str:
        formats = [str(one.model_dump()["format"]) for _, one in self.recipe.passes if one.name == "quantize_cache"]
        return formats[0] if formats else "auto"

    @cached_property
    def estimate(self) -> Estimate | UnsupportedError:
        """What steps of the model cost, or why it cannot be traced."""
        as_costly = {"passes.quantize_cache.format": "fp8"}  # as int8, whose scales are found later
        recipe = self.resolve(as_costly) if self._cache_format == "int8" else self.recipe
        asked = (self.dtype, self.device, deciding_passes(recipe))
        figures = self._kept.figures(*asked)
        if figures is not None:
            return Estimate(self.choice.gpu, self.dtype, figures, Pace.of(self.choice.gpu))
        try:
            estimate = estimate_model(self.config, self.choice.gpu, self.dtype, recipe)
        except UnsupportedError as error:
            return error
        if self._is_known:
            self._kept.keep_figures(*asked, estimate.figures)
        return estimate

    def outlook(self) -> Outlook:
        """What fits and how fast it will be; UnsupportedError for a model that transformers cannot make."""
        if isinstance(self.estimate, Estimate):
            return look_ahead(self.estimate, self.recipe.runtime, self.recipe.aims.context)
        return look_at_weights(self.config, self.choice.gpu, self.dtype, str(self.estimate))

    def plan(self) -> Plan:
        """The decisions, each with its reason."""
        revision = f" at {self.files.revision}" if self.files.revision else ""
        decisions = (
            Decision("model", f"{self.facts.model_type}{revision}", f"{self.files.reference} is a {self.files.origin}"),
            Decision("device", self.choice.gpu.name, self.choice.reason),
            Decision("dtype", str(self.dtype).removeprefix("torch."), self.dtype_reason),
            *_quantization(self._quantize, self._fastest),
            *recipe_decisions(self.recipe),
        )
        notes = (*self.recipe.notes, *self._notes())
        return Plan(self.files.reference, decisions, notes, self.recipe.choices)

    @property
    def origin(self) -> dict[str, str | None]:
        """What the artifact says of the model it was made from: of a Hub model, the commit; how it is quantized."""
        stored = None if self.form is None else f"{self.form.name}: {self.form.describe()}"
        named = {"reference": self.files.reference, "origin": self.files.origin, "revision": self.files.revision}
        return {**named, "stored": stored}

    def _notes(self) -> list[str]:
        if self.choice.gpu.is_cpu or torch.cuda.is_available():
            return []
        return [f"this machine has no CUDA device: the artifact is built for {self.choice.gpu.name} and tuned there"]

    def fingerprint(self, load_format: str, fuel: int | None, quality: object = None) -> str:
        """A name for the result: two builds with the same one write the same artifact."""
        parts = {
            "model": _identity(self.files),
            "dtype": str(self.dtype),
            "gpu": self.choice.gpu.name,
            "recipe": self.recipe.fingerprint,
            "load_format": load_format,
            "fuel": fuel,
            "quality": [self._quantize, quality],
            "versions": versions(),
            "plugins": [str(one) for one in discover().providers()],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _quantization(quantize: str | None, fastest: Fastest | None) -> tuple[Decision, ...]:
    """What `--quantize` asked for, in words; nothing where it did not."""
    if quantize is None:
        return ()
    if fastest is not None:
        return (Decision("quantize", fastest.scheme, f"fastest: {fastest.reason}"),)
    found = "the fewest bytes that keep to the limits" if quantize == AUTO else str(scheme_of_option(quantize))
    return (Decision("quantize", quantize, found),)


def _identity(files: ModelFiles) -> list[Any]:
    """What changes when the model's files do: a commit, or the name, size and time of each file."""
    if files.revision is not None:
        return [files.reference, files.revision]
    found = sorted(file for file in files.folder.iterdir() if file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in found]


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
        found, files = job.plan(), checkpoint_decisions(describe_checkpoint(job.files), job.origin["stored"])
        return replace(found, decisions=(*found.decisions, *files), outlook=job.outlook())

"""A benchmark from end to end: an artifact, workloads, and a report."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autodeploy.artifact import Artifact
from autodeploy.bench.ceilings import measure_ceilings
from autodeploy.bench.figure import Figure
from autodeploy.bench.machine import context
from autodeploy.bench.profile import StepProfile, profile_decode, profile_prefill
from autodeploy.bench.ready import Ready, Started
from autodeploy.bench.report import Report
from autodeploy.bench.workloads import Decode, Floors, Ttft, Workload
from autodeploy.cost import CostModel, Pace
from autodeploy.errors import InputError
from autodeploy.hardware import choose_gpu
from autodeploy.llm import LLM
from autodeploy.progress import Progress
from autodeploy.runtime.core import EngineCore
from autodeploy.runtime.remote import RemoteCore


@dataclass(frozen=True)
class Session:
    """How an artifact is loaded to be measured; `settings` are the user's `runtime.*`, which win."""

    artifact: Artifact
    settings: Mapping[str, Any]
    gpu: str
    capture: str | None
    engine: str
    progress: Progress

    def report(self, runs: Sequence[Workload | Ready], *, profile: bool, command: str) -> Report:
        """Measure every workload, and profile the steps of those that decode or prefill.

        Raises InputError for workloads that the settings or the model have no room for, and when there is nothing to
        profile.
        """
        workloads = [one for one in runs if not isinstance(one, Ready)]
        profiled = [one for one in workloads if isinstance(one, Decode | Ttft)] if profile else []
        if profile and not profiled:
            raise InputError("--profile: only decode and ttft have steps to profile; add --run decode:1")
        settings = self._roomy(workloads)
        starts = {one.name: self._start(one) for one in runs if isinstance(one, Ready)}
        manifest = self.artifact.manifest
        dtype: torch.dtype = getattr(torch, manifest.dtype)
        ceilings = measure_ceilings(torch.device(manifest.devices[0]), dtype)
        pace = Pace.of(choose_gpu(self.gpu).gpu).measured(ceilings.read_gb_s, ceilings.tflops, ceilings.dtype)
        floors = Floors(CostModel.of(self.artifact), ceilings, settings["runtime.max_batch_size"], pace)
        figures = {name: one.figures for name, one in starts.items()}
        for reuses in (False, True):
            some = [one for one in workloads if one.reuses_prefixes is reuses]
            if some:
                figures.update(self._measure(some, {**settings, "runtime.prefix_reuse": reuses}, floors))
                _free()
        profiles = self._profile(profiled, {**settings, "runtime.prefix_reuse": False}) if profiled else []
        rows = tuple(figure for one in runs for figure in figures[one.name])
        told = {**context(command), "starts": [vars(one) for one in starts.values()]}
        return Report(manifest.name, manifest.dtype, told, ceilings, rows, tuple(profiles))

    def _roomy(self, workloads: Sequence[Workload]) -> dict[str, Any]:
        """The settings, with room for all requests that a workload wants to run at once."""
        own = self.artifact.recipe["runtime"]["max_batch_size"]
        if not workloads:
            return {"runtime.max_batch_size": own, **self.settings}
        largest = max(workloads, key=lambda one: one.batch_size)
        settings = {"runtime.max_batch_size": max(own, largest.batch_size), **self.settings}
        if settings["runtime.max_batch_size"] < largest.batch_size:
            limit = settings["runtime.max_batch_size"]
            raise InputError(f"--run {largest.name}: runtime.max_batch_size={limit} lets no more than that run at once")
        return settings

    def _start(self, run: Ready) -> Started:
        """Start the artifact as a user would: with the settings that were given, and no more room than it has."""
        self.progress.start(run.name)
        options = {"gpu": self.gpu, "capture": self.capture, "engine": self.engine, "set": dict(self.settings)}
        started = run.measure(self.artifact, options)
        self.progress.finish(run.name, f"{started.answered:.1f} s")
        self.progress.note(started.sentence())
        return started

    def _load(self, engine: str, settings: Mapping[str, Any]) -> LLM:
        path, progress = self.artifact.path, self.progress
        return LLM(path, gpu=self.gpu, capture=self.capture, engine=engine, set=settings, progress=progress)

    def _measure(
        self, workloads: Sequence[Workload], settings: Mapping[str, Any], floors: Floors
    ) -> dict[str, list[Figure]]:
        llm = self._load(self.engine, settings)
        figures: dict[str, list[Figure]] = {}
        for one in workloads:
            self.progress.start(one.name)
            figures[one.name] = one.measure(llm, floors)
            first = figures[one.name][0]
            self.progress.finish(one.name, f"{first.value:.2f} {first.unit}")
        if isinstance(llm.engine.core, RemoteCore):
            llm.engine.core.close()
        return figures

    def _profile(self, workloads: Sequence[Decode | Ttft], settings: Mapping[str, Any]) -> list[StepProfile]:
        llm = self._load("inline", settings)
        assert isinstance(llm.engine.core, EngineCore)
        profiles = []
        for one in workloads:
            self.progress.start(f"profile {one.name}")
            profiles.append(profile_decode(llm, one) if isinstance(one, Decode) else profile_prefill(llm, one))
            self.progress.finish(f"profile {one.name}")
        return profiles


def _free() -> None:
    """Give the memory of an engine that is gone back to the device: the next one takes what is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

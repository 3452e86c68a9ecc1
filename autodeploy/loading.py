"""From an artifact to a core that runs it, in this process. What only building or text needs is not imported here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from autodeploy.artifact import Artifact
from autodeploy.artifact.weights import Reading
from autodeploy.discovery import kernel_table
from autodeploy.errors import InputError, RecipeError, UnsupportedError, nearest
from autodeploy.foresight import conditions_of, rehearsed
from autodeploy.hardware import choose_gpu
from autodeploy.kernels import native
from autodeploy.program import Program, ProgramSpec
from autodeploy.runtime.clock import Phases
from autodeploy.runtime.compiler import Compiler
from autodeploy.runtime.core import EngineCore
from autodeploy.runtime.rehearsal import classes, rehearse
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.tuning import tune

_NONE: Mapping[str, Any] = MappingProxyType({})


def load_core(
    found: Artifact,
    gpu: str = "auto",
    capture: str | None = None,
    settings: Mapping[str, Any] = _NONE,
    compiler: Compiler | None = None,
    phases: Phases | None = None,
) -> EngineCore:
    """A core in this process over an artifact, with `runtime.*` settings laid over its own.

    `capture` is "none", "compile", "cudagraph" or, with None, what pays: CUDA graphs where there is a GPU. With a
    compiler, kernels are compiled while the weights are read. The time is added to `phases`.
    """
    if capture == "cudagraph" and found.manifest.devices[0] == "cpu":
        raise UnsupportedError(f"capture='cudagraph': {found.path} was built for a CPU; use none or compile")
    resolved = _settings(found, settings)
    if capture is not None:
        resolved = resolved.model_copy(update={"cuda_graphs": capture == "cudagraph"})
    phases = phases or Phases()
    program, reading = _begin(found, gpu, capture)
    phases.mark("graph")
    steps = rehearsed(program, resolved)
    if compiler is not None and steps:
        foreseen = compiler.conditions == conditions_of(program.device, resolved, steps)
        compiler.compile(() if foreseen else rehearse(program, resolved, classes(steps)))
    phases.mark("kernels")
    reading.wait()
    phases.mark("weights")
    return EngineCore(program, resolved, _eos_token_ids(found), _notes(program), phases)


def load_program(found: Artifact, gpu: str = "auto", capture: str | None = None) -> Program:
    """The program of an artifact with its weights on the device it was built for; InputError when that is not here."""
    program, reading = _begin(found, gpu, capture)
    reading.wait()
    return program


def _begin(found: Artifact, gpu: str, capture: str | None) -> tuple[Program, Reading]:
    """The program of an artifact, whose weights are on their way."""
    device = torch.device(found.manifest.devices[0])
    if gpu != "auto" and choose_gpu(gpu).gpu.is_cpu != (device.type == "cpu"):
        raise InputError(f"--gpu {gpu}: {found.path} was built for {device.type}; build it again for {gpu}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{found.path} was built for a CUDA device, and this machine has none; build it with --gpu cpu"
        )
    reading = found.start_reading(device)
    spec = ProgramSpec.from_dict(found.manifest.details["program"])  # type: ignore[arg-type]
    graph_module, table = found.graph_module(), kernel_table(device)
    graph = graph_module.graph
    tuning = tune(graph, table, device, found.tuning, lambda _: reading.wait())  # kernels are timed on a quiet device
    return Program(graph_module, reading.tensors, table, device, spec, capture, tuning), reading


def _notes(program: Program) -> list[str]:
    """What the user should know of how the program runs here."""
    notes = [*kernel_table(program.device).notes, *program.notes]
    if program.device.type == "cpu" and native.why_unavailable() is not None:
        notes.append(f"operators run through plain PyTorch, which is slower: {native.why_unavailable()}")
    return notes


def _settings(found: Artifact, values: Mapping[str, Any]) -> RuntimeSettings:
    """The artifact's runtime settings with `runtime.*` values laid over them."""
    changed = {key.removeprefix("runtime."): value for key, value in values.items()}
    for key in changed:
        if key not in RuntimeSettings.model_fields:
            raise RecipeError(f"--set runtime.{key}: no such setting; {nearest(key, RuntimeSettings.model_fields)}")
    return RuntimeSettings(**{**found.recipe["runtime"], **changed})


def _eos_token_ids(found: Artifact) -> tuple[int, ...]:
    """The tokens that end an answer: the generation config's, or else the model's."""
    file = found.path / "generation_config.json"
    generation = json.loads(file.read_text()) if file.is_file() else {}
    ids = generation.get("eos_token_id", found.config.get("eos_token_id"))
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (ids,)

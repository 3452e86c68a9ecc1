"""`autodeploy.LLM`: from an artifact, or a model reference, to something that answers prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from autodeploy import artifact
from autodeploy.artifact import Artifact
from autodeploy.artifact.manifest import MANIFEST
from autodeploy.builder import build
from autodeploy.cache import cache_dir
from autodeploy.discovery import kernel_table
from autodeploy.errors import InputError, RecipeError, UnsupportedError, nearest
from autodeploy.hardware import choose_gpu
from autodeploy.hub.pull import pull
from autodeploy.kernels import native
from autodeploy.program import Program, ProgramSpec
from autodeploy.progress import NullProgress, Progress, stage
from autodeploy.runtime.core import EngineCore
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.link import Link
from autodeploy.runtime.llm import LLM as RuntimeLLM  # noqa: N811 (a class with an acronym's name)
from autodeploy.runtime.messages import Start
from autodeploy.runtime.protocol import Core
from autodeploy.runtime.remote import RemoteCore
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.tuning import matmuls_of, tune

ENGINES = ("auto", "inline", "process")
_NONE: Mapping[str, Any] = MappingProxyType({})


class LLM(RuntimeLLM):
    """A model that answers prompts in batches.

    `model` is an artifact's folder, or anything that `autodeploy.build` takes: that is built into the user's cache
    first. `engine` says where it runs: in a process of its own ("process"), in this one ("inline"), or, with "auto", in
    its own where there is a GPU that text would keep waiting. The other options are the command line's. On an artifact,
    `set` may change `runtime.*` only: the rest was decided when it was built. Raises InputError (or one of its kinds)
    for a model or option that is not valid.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        gpu: str = "auto",
        dtype: str = "auto",
        recipe: str = "auto",
        workload: str = "balanced",
        quantize: str | None = None,
        set: Mapping[str, Any] = _NONE,  # noqa: A002 (the command line's name)
        load_format: str = "auto",
        capture: str | None = None,
        engine: str = "auto",
        progress: Progress | None = None,
    ) -> None:
        progress = progress or NullProgress()
        settings = {key: value for key, value in set.items() if key.startswith("runtime.")}
        options = {"dtype": dtype, "recipe": recipe, "workload": workload, "load_format": load_format}
        found = find_artifact(model, gpu=gpu, set=set, progress=progress, **options, quantize=quantize)
        if engine not in ENGINES:
            raise InputError(f"engine={engine!r}: not a choice; {nearest(engine, ENGINES)}")
        if engine == "auto":
            engine = "inline" if found.manifest.devices[0] == "cpu" else "process"
        with stage(progress, "load"):
            if engine == "process":
                core: Core = RemoteCore(Link.start(Start(str(found.path.resolve()), gpu, capture, settings)))
            else:
                core = load_core(found, gpu, capture, settings)
            for sentence in core.notes:
                progress.note(sentence)
            super().__init__(Engine(core, _tokenizer(found)))


def find_artifact(
    model: str | Path,
    *,
    gpu: str,
    set: Mapping[str, Any],  # noqa: A002
    progress: Progress,
    **options: str | None,
) -> Artifact:
    """The artifact in the folder `model`, at that id on the Hub, or else one built of that model into the user's cache.

    `options` are `dtype`, `recipe`, `workload`, `quantize` and `load_format`; of `set`, what is not `runtime.*` decides
    the build.
    Raises InputError (or one of its kinds) for a model or option that is not valid.
    """
    local = Path(model) if (Path(model) / MANIFEST).is_file() else pull(str(model), progress)
    if local is not None:
        _refuse_decided(model, set, **options)
        return artifact.load(local)
    decided = {key: value for key, value in set.items() if not key.startswith("runtime.")}
    return _build(str(model), {"gpu": gpu, **options, "set": decided}, progress)


def load_core(
    found: Artifact, gpu: str = "auto", capture: str | None = None, settings: Mapping[str, Any] = _NONE
) -> EngineCore:
    """A core in this process over an artifact, with `runtime.*` settings laid over its own.

    `capture` is "none", "compile", "cudagraph" or, with None, what pays: CUDA graphs where there is a GPU.
    """
    if capture == "cudagraph" and found.manifest.devices[0] == "cpu":
        raise UnsupportedError(f"capture='cudagraph': {found.path} was built for a CPU; use none or compile")
    program = load_program(found, gpu, capture)
    resolved = _settings(found, settings)
    if capture is not None:
        resolved = resolved.model_copy(update={"cuda_graphs": capture == "cudagraph"})
    return EngineCore(program, resolved, _eos_token_ids(found), _notes(program))


def load_program(found: Artifact, gpu: str = "auto", capture: str | None = None) -> Program:
    """The program of an artifact with its weights on the device it was built for; InputError when that is not here."""
    device = torch.device(found.manifest.devices[0])
    if gpu != "auto" and choose_gpu(gpu).gpu.is_cpu != (device.type == "cpu"):
        raise InputError(f"--gpu {gpu}: {found.path} was built for {device.type}; build it again for {gpu}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{found.path} was built for a CUDA device, and this machine has none; build it with --gpu cpu"
        )
    spec = ProgramSpec.from_dict(found.manifest.details["program"])  # type: ignore[arg-type]
    graph_module, table = found.graph_module(), kernel_table(device)
    tuning = tune(matmuls_of(graph_module.graph), table, device, found.tuning)
    weights = found.read_weights(device)
    return Program(graph_module, weights, table, device, spec, capture, tuning)


def _notes(program: Program) -> list[str]:
    """What the user should know of how the program runs here."""
    notes = [*kernel_table(program.device).notes, *program.notes]
    if program.device.type == "cpu" and native.why_unavailable() is not None:
        notes.append(f"operators run through plain PyTorch, which is slower: {native.why_unavailable()}")
    return notes


def _build(model: str, options: dict[str, Any], progress: Progress) -> Artifact:
    """An artifact in the user's cache: one folder for a model and its options, built again when the model changes."""
    name = hashlib.sha256(json.dumps([model, options], sort_keys=True, default=str).encode()).hexdigest()[:20]
    folder = cache_dir() / "programs" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    return build(model, out=folder, progress=progress, **options)


def _refuse_decided(model: str | Path, values: Mapping[str, Any], **options: str | None) -> None:
    """Raise InputError for an option that an artifact's build has decided already."""
    defaults = {"dtype": "auto", "recipe": "auto", "workload": "balanced", "load_format": "auto"}
    for name, value in options.items():
        if value != defaults.get(name):
            raise InputError(f"{model} is an artifact, built with its own {name}; build it again with {name}={value}")
    for key in values:
        if not key.startswith("runtime."):
            raise RecipeError(f"--set {key}: {model} is an artifact, whose passes have run; only runtime.* can change")


def _settings(found: Artifact, values: Mapping[str, Any]) -> RuntimeSettings:
    """The artifact's runtime settings with `runtime.*` values laid over them."""
    changed = {key.removeprefix("runtime."): value for key, value in values.items()}
    for key in changed:
        if key not in RuntimeSettings.model_fields:
            raise RecipeError(f"--set runtime.{key}: no such setting; {nearest(key, RuntimeSettings.model_fields)}")
    return RuntimeSettings(**{**found.recipe["runtime"], **changed})


def _tokenizer(found: Artifact) -> PreTrainedTokenizerBase | None:
    """The artifact's tokenizer; None when the model came without one, and serves token ids."""
    if not any(name.startswith("tokenizer") for name in found.manifest.files):
        return None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(found.path)
    return tokenizer


def _eos_token_ids(found: Artifact) -> tuple[int, ...]:
    """The tokens that end an answer: the generation config's, or else the model's."""
    file = found.path / "generation_config.json"
    generation = json.loads(file.read_text()) if file.is_file() else {}
    ids = generation.get("eos_token_id", found.config.get("eos_token_id"))
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (ids,)

"""`autodeploy.LLM`: from an artifact, or a model reference, to something that answers prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from autodeploy.cache import cache_dir
from autodeploy.errors import InputError, RecipeError, nearest
from autodeploy.progress import NullProgress, Progress, stage
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.link import Link
from autodeploy.runtime.llm import LLM as RuntimeLLM  # noqa: N811 (a class with an acronym's name)
from autodeploy.runtime.messages import Start
from autodeploy.runtime.protocol import Core
from autodeploy.runtime.remote import RemoteCore
from autodeploy.runtime.target import is_for_gpu
from autodeploy.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:  # torch and transformers take seconds to import: a worker starts before that
    from autodeploy.artifact import Artifact

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
        if engine not in ENGINES:
            raise InputError(f"engine={engine!r}: not a choice; {nearest(engine, ENGINES)}")
        settings = {key: value for key, value in set.items() if key.startswith("runtime.")}
        options = {"dtype": dtype, "recipe": recipe, "workload": workload, "load_format": load_format}

        def start(folder: Path) -> Link:
            return Link.start(Start(str(folder.resolve()), gpu, capture, settings))

        with ExitStack() as on_failure:
            link = start(Path(model)) if engine != "inline" and is_for_gpu(Path(model)) else None
            if link is not None:
                on_failure.callback(link.close)
            found = find_artifact(model, gpu=gpu, set=set, progress=progress, **options, quantize=quantize)
            if engine == "auto":
                engine = "inline" if found.manifest.devices[0] == "cpu" else "process"
            with stage(progress, "load"):
                if engine == "process":
                    link = link or start(found.path)
                    tokenizer = _tokenizer(found)  # while the worker loads
                    core: Core = RemoteCore(link)
                else:
                    core, tokenizer = _load_here(found, gpu, capture, settings), _tokenizer(found)
                for sentence in core.notes:
                    progress.note(sentence)
            on_failure.pop_all()
        super().__init__(Engine(core, tokenizer))


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
    from autodeploy import artifact
    from autodeploy.artifact.manifest import MANIFEST
    from autodeploy.hub.pull import pull

    local = Path(model) if (Path(model) / MANIFEST).is_file() else pull(str(model), progress)
    if local is not None:
        _refuse_decided(model, set, **options)
        return artifact.load(local)
    decided = {key: value for key, value in set.items() if not key.startswith("runtime.")}
    return _build(str(model), {"gpu": gpu, **options, "set": decided}, progress)


def _load_here(found: Artifact, gpu: str, capture: str | None, settings: Mapping[str, Any]) -> Core:
    from autodeploy.loading import load_core

    return load_core(found, gpu, capture, settings)


def _build(model: str, options: dict[str, Any], progress: Progress) -> Artifact:
    """An artifact in the user's cache: one folder for a model and its options, built again when the model changes."""
    from autodeploy.builder import build

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


def _tokenizer(found: Artifact) -> Tokenizer | None:
    """The artifact's tokenizer; None when the model came without one, and serves token ids."""
    if not any(name.startswith("tokenizer") for name in found.manifest.files):
        return None
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(found.path)
    return tokenizer

"""Finding what is to be inspected: an artifact, or a model whose passes run now, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch.fx import Graph

from autodeploy.artifact import Artifact, load
from autodeploy.artifact.manifest import MANIFEST
from autodeploy.errors import InputError, ModelError, nearest
from autodeploy.export import trace_model
from autodeploy.graph.diff import GraphDiff
from autodeploy.hub.pull import pull
from autodeploy.inspect.subject import Subject
from autodeploy.job import Job
from autodeploy.optimizer import Optimized, optimize
from autodeploy.progress import NullProgress, Progress, stage


@dataclass(frozen=True)
class Inspected:
    """What was found under a name: exactly one of the two."""

    name: str
    artifact: Artifact | None = None
    result: Optimized | None = None

    @property
    def subject(self) -> Subject:
        """What can be looked at."""
        if self.result is not None:
            return Subject.of_result(self.result)
        assert self.artifact is not None
        return Subject.of_artifact(self.artifact)

    @property
    def graphs(self) -> dict[str, Graph]:
        """All its graphs, by name."""
        if self.result is not None:
            return {"main": self.result.graph_module.graph}
        assert self.artifact is not None
        return {name: self.artifact.graph_module(name).graph for name in self.artifact.graph_names}

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        if self.result is not None:
            return self.result.recipe.as_dict()
        assert self.artifact is not None
        return self.artifact.recipe

    def diff(self, wanted: str) -> GraphDiff:
        """What a pass changed, by its number or its name: of several of one name the first that changed something.

        Raises InputError for a pass that is not there, and for an artifact, which keeps no graphs between passes.
        """
        if self.result is None:
            raise InputError(
                f"--pass {wanted}: {self.name} is an artifact and keeps no graphs between passes; inspect its model"
            )
        history = self.result.history
        if wanted.lstrip("-").isdigit():
            if not -len(history) <= int(wanted) < len(history):
                raise InputError(f"--pass {wanted}: there is no such pass; they are 0 to {len(history) - 1}")
            return self.result.diff(int(wanted))
        found = [index for index, report in enumerate(history) if report.name == wanted]
        if not found:
            names = {report.name for report in history}
            raise InputError(f"--pass {wanted}: the pipeline has no such pass; {nearest(wanted, names)}")
        return self.result.diff(next((index for index in found if history[index].matches), found[0]))


def find(
    model: str,
    *,
    gpu: str = "auto",
    dtype: str = "auto",
    recipe: str = "auto",
    workload: str = "balanced",
    quantize: str | None = None,
    set: Mapping[str, Any] = MappingProxyType({}),  # noqa: A002 (the command line's name)
    progress: Progress | None = None,
) -> Inspected:
    """Open the artifact in the folder `model` or at that id on the Hub, or trace a model and run its passes.

    The options are for the latter. Raises InputError (or one of its kinds) for a name that leads nowhere and an option
    that is not valid.
    """
    progress, folder = progress or NullProgress(), Path(model)
    built = folder if (folder / MANIFEST).is_file() else pull(model, progress)
    if built is not None:
        return Inspected(model, artifact=load(built))
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ModelError(f"{model} holds neither {MANIFEST} nor config.json: it is neither an artifact nor a model")
    options = {"gpu": gpu, "dtype": dtype, "recipe": recipe, "workload": workload}
    with stage(progress, "resolve"):
        job = Job(model, **options, quantize=quantize, values=set, weights=False, progress=progress)
    if job.searches:
        raise InputError(
            f"--quantize {quantize}: the search measures weights, which inspect does not read; build first"
        )
    with stage(progress, "export"):
        traced = trace_model(job.config, job.dtype)
    with stage(progress, "passes"):
        return Inspected(model, result=optimize(traced, job.recipe, gpu))

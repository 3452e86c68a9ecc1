"""The few calls by which commands reach the rest. Each imports what it needs, so that `--help` needs no torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import ConsoleRenderable

from autodeploy.plan import Plan
from autodeploy.progress import Progress
from autodeploy.runtime.sampling_params import SamplingParams

if TYPE_CHECKING:
    from autodeploy.explanation import PatternExplanation
    from autodeploy.inspect.load import Inspected


class Built(Protocol):
    """What the command line shows of an artifact."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """A report of each pass."""

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe."""

    @property
    def verification(self) -> dict[str, Any] | None:
        """What `--verify` found."""


class Written(Protocol):
    """What the command line shows of a checkpoint."""

    @property
    def schemes(self) -> Mapping[str, int]:
        """How many projections got each scheme."""

    @property
    def nbytes(self) -> int:
        """The size of its weights."""

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data."""


class Answering(Protocol):
    """What the command line needs of `autodeploy.LLM`."""

    engine: Any

    def generate(self, prompts: list[str], sampling_params: SamplingParams) -> Any:
        """Answer prompts."""


def build(model: str, *, progress: Progress, **options: Any) -> Built:
    """Build an artifact."""
    built: Built = import_module("autodeploy.builder").build(model, progress=progress, **options)
    return built


def quantize(model: str, *, progress: Progress, **options: Any) -> Written:
    """Write a quantized checkpoint."""
    written: Written = import_module("autodeploy.quantizer").quantize(model, progress=progress, **options)
    return written


def plan(model: str, *, progress: Progress, **options: Any) -> Plan:
    """Decide everything a build would, and build nothing."""
    with _seldom_collecting():
        decided: Plan = import_module("autodeploy.job").plan(model, progress=progress, **options)
    return decided


def explain_pattern(model: str, name: str, *, progress: Progress, **options: Any) -> PatternExplanation:
    """Run a recipe's passes and tell what a pattern did."""
    told: PatternExplanation
    told = import_module("autodeploy.explanation").explain_pattern(model, name, progress=progress, **options)
    return told


def inspect(model: str, *, progress: Progress, **options: Any) -> Inspected:
    """Open an artifact, or run a model's passes, to look at the graph."""
    found: Inspected = import_module("autodeploy.inspect.load").find(model, progress=progress, **options)
    return found


def load_llm(model: str, *, progress: Progress, **options: Any) -> Answering:
    """Make a model or an artifact ready to answer."""
    llm: Answering = import_module("autodeploy").LLM(model, progress=progress, **options)
    return llm


def verification(data: dict[str, Any]) -> ConsoleRenderable:
    """What an artifact says of its verification, as it is shown."""
    found: ConsoleRenderable = import_module("autodeploy.verify").Verification.from_dict(data).__rich__()
    return found


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Look for garbage seldom: nearly all that is imported and traced stays, and looking through it takes a second."""
    usual = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*usual)

"""Plugins: what a package adds to autodeploy, and how the built-ins and everybody else's are found alike.

A package names one `Plugin` under the entry-point group `autodeploy.plugins`. Importing it registers nothing.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from autodeploy.errors import PluginError

if TYPE_CHECKING:  # these need torch, and a recipe-only plugin does not
    from autodeploy.ops import CanonicalOp
    from autodeploy.pipeline import Pass
    from autodeploy.rewrite import Rule

GROUP = "autodeploy.plugins"
OURS = "fx-autodeploy"


class Kernel(Protocol):
    """What the registry asks of a kernel: a name of its own."""

    @property
    def name(self) -> str:
        """Such as `triton.rms_norm`."""


@dataclass(frozen=True)
class Plugin:
    """Everything one package adds. `recipes` are paths of recipe files."""

    name: str
    ops: tuple[CanonicalOp, ...] = ()
    passes: tuple[type[Pass], ...] = ()
    patterns: tuple[Rule, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    recipes: tuple[Path, ...] = ()

    def items(self) -> Iterable[tuple[str, str, Any]]:
        """Each thing it adds, as its kind, its name and itself."""
        for kind in ("ops", "passes", "patterns", "kernels"):
            for one in getattr(self, kind):
                yield kind, one.name, one
        for path in self.recipes:
            yield "recipes", path.stem, path


@dataclass(frozen=True)
class Problem:
    """A plugin that is installed but disabled, and why."""

    plugin: str
    distribution: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} of {self.distribution} is disabled: {self.where}: {self.message}"


@dataclass(frozen=True)
class Registry:
    """What all plugins together provide, by name. `origins` tells the distribution of each (kind, name)."""

    ops: Mapping[str, CanonicalOp] = field(default_factory=dict)
    passes: Mapping[str, type[Pass]] = field(default_factory=dict)
    patterns: Mapping[str, Rule] = field(default_factory=dict)
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    recipes: Mapping[str, Path] = field(default_factory=dict)
    origins: Mapping[tuple[str, str], str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


@cache
def discover() -> Registry:
    """The registry of everything installed, with its operators defined. Found once: packages stay as installed."""
    registry = load_plugins(entry_points(group=GROUP))
    if any(registry.origins["ops", name] != OURS for name in registry.ops):
        from autodeploy.ops import define

        for name, op in registry.ops.items():
            if registry.origins["ops", name] != OURS:  # ours were defined when autodeploy.ops was imported
                define(op)
    return registry


def load_plugins(points: Iterable[EntryPoint]) -> Registry:
    """Load each plugin; one that is broken is reported and left out, two that clash raise PluginError."""
    found: dict[str, dict[str, Any]] = {kind: {} for kind in ("ops", "passes", "patterns", "kernels", "recipes")}
    origins: dict[tuple[str, str], str] = {}
    problems: list[Problem] = []
    for point in sorted(points, key=lambda point: (_distribution(point) != OURS, point.name)):
        distribution = _distribution(point)
        plugin = _load(point, distribution)
        if isinstance(plugin, Problem):
            problems.append(plugin)
            continue
        for kind, name, one in plugin.items():
            if (kind, name) in origins:
                raise PluginError(
                    f"{distribution} and {origins[kind, name]} both have {kind} named {name!r}; uninstall one of them"
                )
            origins[kind, name] = distribution
            found[kind][name] = one
    frozen = {kind: MappingProxyType(values) for kind, values in found.items()}
    return Registry(**frozen, origins=MappingProxyType(origins), problems=tuple(problems))


def _load(point: EntryPoint, distribution: str) -> Plugin | Problem:
    try:
        plugin = point.load()
    except Exception as error:  # another package's import may fail in any way, and must not take ours down
        if distribution == OURS:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = error.lineno if isinstance(error, SyntaxError) else frame.lineno
        file = error.filename if isinstance(error, SyntaxError) else frame.filename
        return Problem(point.name, distribution, f"{file}:{line}", f"{type(error).__name__}: {error}")
    if not isinstance(plugin, Plugin):
        return Problem(point.name, distribution, point.value, f"a Plugin is expected, not a {type(plugin).__name__}")
    return plugin


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"

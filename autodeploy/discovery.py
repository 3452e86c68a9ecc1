"""Finding plugins: the built-in one and everybody else's come through the same entry points."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from autodeploy.errors import PluginError
from autodeploy.insertion import anchor_problem
from autodeploy.plugin import BUILTIN, KINDS, Plugin, place_of
from autodeploy.recipe import Recipe, read_recipe

if TYPE_CHECKING:  # `autodeploy --help` needs no torch
    import torch

    from autodeploy.kernels import Backend, KernelTable
    from autodeploy.ops import CanonicalOp
    from autodeploy.pipeline import Pass
    from autodeploy.rewrite import Rule

GROUP = "autodeploy.plugins"
OURS = "fx-autodeploy"


@dataclass(frozen=True)
class Provider:
    """Who brings something: a plugin, and the distribution that holds it."""

    plugin: str
    distribution: str
    version: str

    @property
    def is_ours(self) -> bool:
        """Whether it is the built-in plugin."""
        return self.distribution == OURS

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Problem:
    """A plugin that is installed but disabled, where its mistake is (`file:line`), and what it is."""

    provider: Provider
    where: str
    message: str

    def __str__(self) -> str:
        return f"plugin {self.provider.plugin!r} of {self.provider} is disabled: {self.where}: {self.message}"


@dataclass(frozen=True)
class Registry:
    """What all plugins together provide, by name. `origins` tells who brings each (kind, name)."""

    ops: Mapping[str, CanonicalOp] = field(default_factory=dict)
    passes: Mapping[str, type[Pass]] = field(default_factory=dict)
    patterns: Mapping[str, Rule] = field(default_factory=dict)
    kernels: Mapping[str, Backend] = field(default_factory=dict)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    origins: Mapping[tuple[str, str], Provider] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def providers(self) -> tuple[Provider, ...]:
        """Everybody who brings something, the built-ins first."""
        return tuple(dict.fromkeys(self.origins.values()))


@cache
def discover() -> Registry:
    """The registry of everything installed, found once; PluginError when two plugins clash."""
    return load_plugins(entry_points(group=GROUP))


@cache
def discover_serving() -> Registry:
    """What running a program takes of `discover()`: operators and kernels.

    Our own passes, patterns and recipes take a second to import, and stay out where no plugin could build on them.
    """
    points = entry_points(group=GROUP)
    if not all(_provider(point).is_ours for point in points):
        return discover()
    from autodeploy.kernels import BACKENDS
    from autodeploy.ops import OPS

    ours = Plugin(BUILTIN, ops=OPS, kernels=BACKENDS)
    return _registry([_Loaded(_provider(point), ours, _items(ours)) for point in points], ())


@dataclass(frozen=True)
class _Loaded:
    """A plugin that could be imported, with its recipes read."""

    provider: Provider
    plugin: Plugin
    items: tuple[tuple[str, str, Any], ...]


def load_plugins(points: Iterable[EntryPoint]) -> Registry:
    """Load each plugin; one that is broken is reported and left out, two that clash raise PluginError."""
    loaded: list[_Loaded] = []
    problems: list[Problem] = []
    for point in sorted(points, key=lambda point: (not _provider(point).is_ours, point.name, point.value)):
        one = _load(point)
        if isinstance(one, Problem):
            problems.append(one)
        else:
            loaded.append(one)
    misplaced = _misplaced(loaded)
    while misplaced is not None:  # disabling one may take away what another is anchored on
        problems.append(misplaced)
        loaded = [one for one in loaded if one.provider != misplaced.provider]
        misplaced = _misplaced(loaded)
    return _registry(loaded, problems)


def _registry(loaded: Iterable[_Loaded], problems: Iterable[Problem]) -> Registry:
    found: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    origins: dict[tuple[str, str], Provider] = {}
    for one in loaded:
        for kind, name, item in (("plugins", one.plugin.name, one.plugin), *one.items):
            if (kind, name) in origins:
                raise PluginError(
                    f"{one.provider} and {origins[kind, name]} both have {kind} named {name!r}; uninstall one of them"
                )
            origins[kind, name] = one.provider
            found.setdefault(kind, {})[name] = item
    frozen = {kind: MappingProxyType(found[kind]) for kind in KINDS}
    return Registry(**frozen, origins=MappingProxyType(origins), problems=tuple(problems))


def _load(point: EntryPoint) -> _Loaded | Problem:
    provider = _provider(point)
    try:
        plugin = point.load()
        if not isinstance(plugin, Plugin):
            return Problem(provider, point.value, f"a Plugin is expected, not a {type(plugin).__name__}")
        if plugin.name != point.name:
            return Problem(provider, point.value, f"the plugin's name is {plugin.name!r}: call its entry point so too")
        return _Loaded(provider, plugin, _items(plugin))
    except Exception as error:  # another package's code may fail in any way, and must not take ours down
        if provider.is_ours:
            raise
        where = place_of_error(error, point.module) or point.value
        return Problem(provider, where, _sentence(error))


def _items(plugin: Plugin) -> tuple[tuple[str, str, Any], ...]:
    """What a plugin adds, its recipes read and by the names that they give themselves."""
    items = [item for item in plugin.items() if item[0] != "recipes"]
    recipes = [read_recipe(path) for path in plugin.recipes]
    return (*items, *(("recipes", recipe.name, recipe) for recipe in recipes))


def _misplaced(loaded: Iterable[_Loaded]) -> Problem | None:
    """The first plugin with a pass that can stand nowhere, because of its `before` and `after`."""
    loaded = list(loaded)
    passes = {one.name: one for each in loaded for one in each.plugin.passes}
    for each in loaded:
        for one in each.plugin.passes:
            reason = anchor_problem(one, passes)
            if reason is not None:
                return Problem(each.provider, place_of(one), reason)
    return None


def place_of_error(error: BaseException, module: str) -> str | None:
    """Where in the package of `module` an error arose, as `file:line`; None when no line of it was running."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    spec = find_spec(module.partition(".")[0])
    homes = [Path(home) for home in (spec.submodule_search_locations or [spec.origin or ""])] if spec else []
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(Path(frame.filename).is_relative_to(home) for home in homes):
            return f"{frame.filename}:{frame.lineno}"
    return None


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def _provider(point: EntryPoint) -> Provider:
    if point.dist is None:
        return Provider(point.name, "an unknown distribution", "")
    return Provider(point.name, point.dist.name, point.dist.version)


@cache
def kernel_table(device: torch.device) -> KernelTable:
    """The kernels of every backend installed for a device, and the reference of every operator.

    A plugin's backend that fails to load is left out, and the table's notes say so.
    """
    from autodeploy.kernels import KernelTable, reference_kernel

    registry = discover_serving()
    kernels = [reference_kernel(op) for op in registry.ops.values()]
    notes = []
    for name, backend in registry.kernels.items():
        provider = registry.origins["kernels", name]
        try:
            kernels += backend.kernels(device.type)
        except Exception as error:  # as when it is imported
            if provider.is_ours:
                raise
            where = place_of_error(error, backend.load.__module__) or name
            notes.append(f"the backend {name!r} of {provider} is left out: {where}: {_sentence(error)}")
    return KernelTable(kernels, notes)

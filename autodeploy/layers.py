"""Laying recipes over each other, and remembering which of them set each value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, TypeVar, cast

import yaml
from pydantic import BaseModel

from autodeploy.aims import Aims
from autodeploy.errors import RecipeError, nearest
from autodeploy.insertion import Place, Staged, insert_passes
from autodeploy.recipe import Recipe
from autodeploy.validation import validated
from autodeploy.yamlfile import Key

PassModel = TypeVar("PassModel", bound=BaseModel)
Settings = TypeVar("Settings", bound=BaseModel)
Where = Callable[[Key], str]
COST_MODEL = "cost model"
"""The layer of what was chosen for a model on a device."""
SET = "--set"
"""The layer of what the command line sets, the last of all."""


@dataclass(frozen=True)
class Origin:
    """Who set a value: a layer (`default`, `gpu cpu`, `--set` …), its place, and its reason."""

    layer: str
    where: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """One resolved value. `key` is what `--set` calls it."""

    key: str
    value: Any
    origin: Origin


@dataclass
class _Entry:
    """A pass of the pipeline while layers are laid over it."""

    name: str
    origin: Origin
    options: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)


@dataclass
class Draft(Generic[PassModel, Settings]):
    """The pipeline and the runtime settings while layers are laid over each other."""

    pass_classes: Mapping[str, type[PassModel]]
    runtime_class: type[Settings]
    entries: list[_Entry] = field(default_factory=list)
    runtime: dict[str, tuple[Any, Origin]] = field(default_factory=dict)
    aims: dict[str, tuple[Any, Origin]] = field(default_factory=dict)
    off: set[str] = field(default_factory=set)
    """Passes that a recipe turned off by name: they do not come back by their anchors."""

    def apply(self, recipe: Recipe, layer: str) -> None:
        """Lay `recipe` on top: passes that are there take its options, new ones join their stage.

        The first list laid down is the pipeline itself; in it a pass may stand twice.
        """
        whole = not self.entries
        self._check_order(recipe)
        after: int | None = None
        for name, options, key in recipe.entries():
            origin = Origin(layer, recipe.where(key), recipe.data.reason)
            there = [] if whole else [index for index, entry in enumerate(self.entries) if entry.name == name]
            if options is None:
                self._remove(name)
                after = None
                continue
            self.off.discard(name)
            after = there[-1] if there else self._insert(name, origin, after)
            for index in there or [after]:
                self._configure(self.entries[index], options, _below(recipe, key), origin)
        for name, value in recipe.data.runtime.items():
            where = recipe.where(("runtime", name))
            self._set_runtime(name, value, Origin(layer, where, recipe.data.reason))
        for name, value in recipe.data.plan.items():
            self._set_aim(name, value, Origin(layer, recipe.where(("plan", name)), recipe.data.reason))

    def plan(self, choices: Iterable[Choice]) -> None:
        """Take what a cost model has chosen: settings of the runtime, and options of passes that are there."""
        for one in choices:
            section, *path = one.key.split(".")
            if section == "runtime":
                self._set_runtime(path[0], one.value, one.origin)
            elif path[0] in self._names():
                self._set_pass(path, one.value, one.origin)

    def set(self, key: str, value: Any) -> None:
        """Apply one `--set key=value`."""
        where = f"--set {key}={_written(value)}"
        section, *path = key.split(".")
        if section not in ("passes", "plan", "runtime") or len(path) not in (1, 2):
            raise RecipeError(
                f"{where}: a key is runtime.KEY, plan.KEY, passes.NAME.OPTION, or passes.NAME for on and off"
            )
        origin = Origin(SET, where, "asked for")
        if section == "runtime":
            self._set_runtime(".".join(path), value, origin)
        elif section == "plan":
            self._set_aim(".".join(path), value, origin)
        else:
            self._set_pass(path, value, origin)

    def _set_pass(self, path: list[str], value: Any, origin: Origin) -> None:
        name = path[0]
        self._check_name(name, origin.where)
        there = [entry for entry in self.entries if entry.name == name]
        if len(path) == 1 and not isinstance(value, bool):
            raise RecipeError(
                f"{origin.where}: a pass is `on` or `off`; its options are set as passes.{name}.OPTION=VALUE"
            )
        if len(path) == 1 and not value:
            self._remove(name)
        elif len(path) == 1 and not there:
            self._insert(name, origin, None)
        elif len(path) == 2:
            if not there:
                raise RecipeError(f"{origin.where}: the pipeline has no {name}; {nearest(name, self._names())}")
            for entry in there:
                self._configure(entry, {path[1]: value}, lambda _: origin.where, origin)

    def insert_anchored(self, providers: Mapping[str, str], off: Iterable[str] = ()) -> None:
        """Add the passes that say where they belong (`before`, `after`) and are not there, except those `off`.

        `providers` says who brings each, for the record.
        """
        staged = cast("Mapping[str, Staged]", self.pass_classes)
        places = insert_passes(self._names(), staged, self.off.union(off))
        self.entries = [
            self.entries[place.listed] if place.listed is not None else _inserted(place, providers) for place in places
        ]

    def _remove(self, name: str) -> None:
        self.entries = [entry for entry in self.entries if entry.name != name]
        self.off.add(name)

    def _insert(self, name: str, origin: Origin, after: int | None) -> int:
        """Put a pass behind entry `after` if that is its stage too, or else at the end of its stage."""
        stage = self._stage(name)
        beside = after is not None and (self._is_cleanup(name) or self._stage(self.entries[after].name) == stage)
        if after is not None and beside:
            index = after + 1
        else:
            later = (i for i, entry in enumerate(self.entries) if self._stage(entry.name) > stage)
            index = next(later, len(self.entries))
        self.entries.insert(index, _Entry(name, origin))
        return index

    def _configure(self, entry: _Entry, options: Mapping[str, Any], where: Where, origin: Origin) -> None:
        validated(self.pass_classes[entry.name], {**entry.options, **options}, where)
        entry.options.update(options)
        entry.origins.update({name: Origin(origin.layer, where((name,)), origin.reason) for name in options})

    def _set_runtime(self, name: str, value: Any, origin: Origin) -> None:
        validated(self.runtime_class, {name: value}, lambda _: origin.where)
        self.runtime[name] = (value, origin)

    def _set_aim(self, name: str, value: Any, origin: Origin) -> None:
        validated(Aims, {name: value}, lambda _: origin.where)
        self.aims[name] = (value, origin)

    def _check_name(self, name: str, where: str) -> None:
        if name not in self.pass_classes:
            raise RecipeError(f"{where}: there is no pass {name!r}; {nearest(name, self.pass_classes)}")

    def _check_order(self, recipe: Recipe) -> None:
        """Refuse a list whose stages go backwards: moving its passes would hide what was meant."""
        before: str | None = None
        for name, options, key in recipe.entries():
            self._check_name(name, recipe.where(key))
            stage = self._stage(name)
            if options is None or self._is_cleanup(name):
                continue
            if before is not None and stage < self._stage(before):
                raise RecipeError(
                    f"{recipe.where(key)}: {name} is of stage {stage.name} and can't follow {before} of stage "
                    f"{self._stage(before).name}; put it before"
                )
            before = name

    def _stage(self, name: str) -> IntEnum:
        return cast("Staged", self.pass_classes[name]).stage

    def _is_cleanup(self, name: str) -> bool:
        return cast("Staged", self.pass_classes[name]).cleanup

    def _names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    def instances(self) -> tuple[tuple[str, PassModel], ...]:
        """The passes, configured."""
        return tuple(
            (entry.name, self.pass_classes[entry.name].model_validate(entry.options)) for entry in self.entries
        )

    def settings(self) -> Settings:
        """The runtime settings."""
        return self.runtime_class.model_validate({name: value for name, (value, _) in self.runtime.items()})

    def aimed(self) -> Aims:
        """What the workload wants."""
        return Aims.model_validate({name: value for name, (value, _) in self.aims.items()})

    def choices(self) -> tuple[Choice, ...]:
        """Every value somebody chose, with its origin; the rest are defaults of the classes."""
        result: list[Choice] = []
        for entry in self.entries:
            result.append(Choice(f"passes.{entry.name}", True, entry.origin))
            for name, origin in entry.origins.items():
                result.append(Choice(f"passes.{entry.name}.{name}", entry.options[name], origin))
        result += [Choice(f"plan.{name}", value, origin) for name, (value, origin) in self.aims.items()]
        result += [Choice(f"runtime.{name}", value, origin) for name, (value, origin) in self.runtime.items()]
        return tuple(result)


def _inserted(place: Place, providers: Mapping[str, str]) -> _Entry:
    who = f"plugin {providers.get(place.name, 'unknown')}"
    return _Entry(place.name, Origin(who, place.why, f"inserted by {who} {place.why}"))


def _written(value: Any) -> str:
    """A value as people write it, which YAML reads `on` and `off` of as booleans."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def _below(recipe: Recipe, key: Key) -> Where:
    return lambda inner: recipe.where((*key, *inner))


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` words of the command line; a value is written as in YAML."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"--set {setting}: a key and a value are expected, as in runtime.page_size=8")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {setting}: {text!r} is not a YAML value") from error
    return values

"""Recipe files: what one may say, and where recipes are found. `autodeploy.resolution` puts them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from autodeploy.errors import RecipeError, nearest
from autodeploy.hardware import list_gpus, recipe_folder
from autodeploy.validation import Location, validated
from autodeploy.yamlfile import Key, YamlFile, read_yaml

WORKLOADS = ("balanced", "latency", "throughput")


class Conditions(BaseModel):
    """What a recipe is for. Every condition that is given must hold; a list holds when one of its names does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: tuple[str, ...] = ()
    gpu: tuple[str, ...] = ()
    workload: tuple[str, ...] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("workload")
    @classmethod
    def _is_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in WORKLOADS:
                raise ValueError(f"there is no workload {name!r}; {nearest(name, WORKLOADS)}")
        return names

    @field_validator("gpu")
    @classmethod
    def _without_aliases(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = {alias: gpu.name for gpu in list_gpus() for alias in gpu.aliases}
        return tuple(known.get(name, name) for name in names)

    def hold(self, target: Target) -> bool:
        """Whether a recipe with these conditions applies to `target`."""
        pairs = (
            (self.architecture, target.architecture),
            (self.gpu, target.gpu),
            (self.workload, target.workload),
        )
        return all(not names or name in names for names, name in pairs)

    def names(self) -> tuple[str, ...]:
        """Every name asked for; with none, the recipe applies only when it is named itself."""
        return (*self.architecture, *self.gpu, *self.workload)


@dataclass(frozen=True)
class Target:
    """What a recipe is resolved for: a model type of transformers, a GPU name, a workload."""

    architecture: str
    gpu: str
    workload: str


class RecipeData(BaseModel):
    """The content of a recipe file.

    `extends` says what the file is laid over: `auto` is everything that matches the target, `none` is nothing (its
    pass list is then the whole pipeline), and a name is that recipe. `reason` is shown beside each value it sets.
    `plan` says what the runtime's settings are to aim at where a cost model chooses them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    name: str = Field(min_length=1)
    reason: str = ""
    extends: str = "auto"
    match: Conditions = Conditions()
    plan: dict[str, Any] = {}
    passes: tuple[Any, ...] = ()
    runtime: dict[str, Any] = {}


@dataclass(frozen=True)
class Recipe:
    """A recipe and the file it came from."""

    data: RecipeData
    file: YamlFile

    @property
    def name(self) -> str:
        """What `--recipe` calls it."""
        return self.data.name

    def where(self, key: Key = ()) -> str:
        """The place of `key` as `file:line`."""
        return self.file.where(key)

    def entries(self) -> Iterator[tuple[str, Mapping[str, Any] | None, Key]]:
        """Each pass it lists: the name, the options (None for `off`), and the key of the entry."""
        for index, entry in enumerate(self.data.passes):
            key: Key = ("passes", index)
            if isinstance(entry, str):
                yield entry, {}, key
                continue
            if not isinstance(entry, dict) or len(entry) != 1:
                raise RecipeError(f"{self.where(key)}: one pass an entry, such as `- name: {{option: value}}`")
            ((name, options),) = entry.items()
            yield name, pass_options(options, f"{self.where((*key, name))}: {name}"), (*key, name)


def pass_options(value: Any, name: str) -> Mapping[str, Any] | None:
    """What stands after a pass's name: options, or the words `on` (no options) and `off` (None), as YAML reads them."""
    if value is None or value is True:
        return {}
    if value is not False and not isinstance(value, dict):
        raise RecipeError(f"{name} is `on`, `off` or has options, as in {{option: value}}; not {value!r}")
    return None if value is False else value


def read_recipe(path: Path) -> Recipe:
    """Read one recipe file."""
    file = read_yaml(path)

    def where(location: Location) -> str:
        return file.where(location)

    return Recipe(validated(RecipeData, file.data, where), file)


def builtin_recipes() -> tuple[Path, ...]:
    """The recipe files of the package. Its hardware files are not recipes."""
    folder = recipe_folder()
    return tuple(
        sorted(path for place in ("", "architectures/", "workloads/") for path in folder.glob(f"{place}*.yaml"))
    )


def load_recipe(name: str, recipes: Mapping[str, Recipe], asked_by: str) -> Recipe:
    """The recipe called `name`, or in the file `name` when it ends in .yaml; an error names who asked for it."""
    if name.endswith((".yaml", ".yml")):
        return read_recipe(Path(name))
    if name not in recipes:
        raise RecipeError(f"{asked_by}: no recipe is called {name!r}; {nearest(name, ['auto', *recipes])}")
    return recipes[name]

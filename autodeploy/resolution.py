"""Resolving recipes: which values a build uses, where each came from, and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic

from autodeploy.aims import Aims
from autodeploy.errors import RecipeError, nearest
from autodeploy.layers import Choice, Draft, PassModel, Settings
from autodeploy.recipe import WORKLOADS, Recipe, Target, load_recipe


@dataclass(frozen=True)
class ResolvedRecipe(Generic[PassModel, Settings]):
    """What a build uses: configured passes in order, runtime settings, and the provenance of both."""

    target: Target
    passes: tuple[tuple[str, PassModel], ...]
    runtime: Settings
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]
    aims: Aims = field(default_factory=Aims)
    """What the workload wants, where a cost model chooses."""
    promised: frozenset[str] = frozenset()
    """The passes that leave nothing in primitive form; empty unless a recipe lists the architecture."""

    @property
    def leaves_nothing(self) -> bool:
        """Whether the graph must be canonical throughout: the architecture is listed, and no pass was taken away."""
        return bool(self.promised) and self.promised.issubset(name for name, _ in self.passes)

    def as_dict(self) -> dict[str, Any]:
        """The resolved values as plain data, without their provenance."""
        passes = [{name: model.model_dump(mode="json")} for name, model in self.passes]
        return {"version": 1, "passes": passes, "runtime": self.runtime.model_dump(mode="json")}

    @property
    def fingerprint(self) -> str:
        """A name for the values: two recipes that resolve alike have the same."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def resolve(
    target: Target,
    *,
    passes: Mapping[str, type[PassModel]],
    runtime: type[Settings],
    recipes: Mapping[str, Recipe],
    recipe: str = "auto",
    set_values: Mapping[str, Any] = MappingProxyType({}),
    providers: Mapping[str, str] = MappingProxyType({}),
    planned: Iterable[Choice] = (),
) -> ResolvedRecipe[PassModel, Settings]:
    """Lay the matching recipes over each other, `planned` over them, then the user's (`recipe`), then `set_values`.

    `planned` are values of the runtime that a cost model has chosen; `recipe` is a name or a file.

    Passes with anchors that no recipe lists are inserted before `set_values` apply; `providers` says who brings each.
    """
    if target.workload not in WORKLOADS:
        raise RecipeError(f"--workload {target.workload}: no such workload; {nearest(target.workload, WORKLOADS)}")
    draft = Draft(passes, runtime)
    matching, own = _layers(target, recipe, recipes)
    for layer, one in matching:
        draft.apply(one, layer)
    draft.plan(planned)
    for layer, one in own:
        draft.apply(one, layer)
    draft.insert_anchored(
        providers, [key.removeprefix("passes.") for key, value in set_values.items() if value is False]
    )
    for key, value in set_values.items():
        draft.set(key, value)
    listed = any(target.architecture in one.data.match.architecture for one in recipes.values())
    return ResolvedRecipe(
        target,
        draft.instances(),
        draft.settings(),
        draft.choices(),
        () if listed else (_unlisted(target),),
        draft.aimed(),
        frozenset(name for name, _, _ in recipes["default"].entries()) if listed else frozenset(),
    )


def _layers(
    target: Target, name: str, recipes: Mapping[str, Recipe]
) -> tuple[list[tuple[str, Recipe]], list[tuple[str, Recipe]]]:
    """The recipes that match, and over them those that the user named."""
    matching = _matching(target, recipes)
    if name == "auto":
        return matching, []
    stack: list[tuple[str, Recipe]] = []
    seen: set[str] = set()
    asked_by = f"--recipe {name}"
    while name not in ("auto", "none"):
        recipe = load_recipe(name, recipes, asked_by)
        if recipe.name in seen:
            raise RecipeError(f"{recipe.where(('extends',))}: {recipe.name!r} extends itself")
        seen.add(recipe.name)
        stack.insert(0, (f"recipe {recipe.name}", recipe))
        asked_by = recipe.where(("extends",))
        name = "none" if recipe.name == "default" else recipe.data.extends
    # A recipe that matched by itself and is also named applies once, where the user put it.
    under = [(layer, recipe) for layer, recipe in matching if recipe.name not in seen]
    return (under if name == "auto" else []), stack


def _matching(target: Target, recipes: Mapping[str, Recipe]) -> list[tuple[str, Recipe]]:
    layers = [("default", recipes["default"])]
    for kind in ("architecture", "gpu", "workload"):
        for recipe in recipes.values():
            if _kind(recipe) == kind and recipe.data.match.hold(target):
                layers.append((f"{kind} {getattr(target, kind)}", recipe))
    return layers


def _kind(recipe: Recipe) -> str | None:
    """The layer of a recipe: the last thing it asks for, in the order of the layers."""
    match = recipe.data.match
    asked = [kind for kind in ("architecture", "gpu", "workload") if getattr(match, kind)]
    return asked[-1] if asked else None


def _unlisted(target: Target) -> str:
    return f"no recipe knows the architecture {target.architecture!r}; it gets the default pipeline"

"""Plugins: what a package adds to autodeploy. `autodeploy.discovery` finds them.

A package names one `Plugin` under the entry-point group `autodeploy.plugins`. Importing it registers nothing.
"""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodeploy.errors import PluginError

if TYPE_CHECKING:  # these need torch, and a recipe-only plugin does not
    from autodeploy.kernels import Backend
    from autodeploy.ops import CanonicalOp
    from autodeploy.pipeline import Pass
    from autodeploy.rewrite import Rule

BUILTIN = "builtin"
KINDS = ("ops", "passes", "patterns", "kernels", "recipes")


@dataclass(frozen=True)
class Plugin:
    """Everything one package adds.

    `name` is the plugin's own, and the namespace of its operators: `torch.ops.<name>`. `passes` are classes, `kernels`
    are backends, `recipes` are paths of recipe files. Raises PluginError for anything that is none of these.
    """

    name: str
    ops: tuple[CanonicalOp, ...] = ()
    passes: tuple[type[Pass], ...] = ()
    patterns: tuple[Rule, ...] = ()
    kernels: tuple[Backend, ...] = ()
    recipes: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        _check_name(self.name)
        for kind in KINDS:
            held = getattr(self, kind)
            if not isinstance(held, tuple):
                raise PluginError(f"{kind} of the plugin {self.name!r} is a {type(held).__name__}; a tuple is expected")
            for one in held:
                _CHECKS[kind](one, self.name)
        for (kind, name), times in Counter((kind, name) for kind, name, _ in self.items()).items():
            if times > 1:
                raise PluginError(f"{kind} of the plugin {self.name!r} hold {name!r} {times} times")

    def items(self) -> Iterator[tuple[str, str, Any]]:
        """Each thing it adds, as its kind, its name and itself; a recipe by the name of its file."""
        for op in self.ops:
            yield "ops", op.full_name, op
        for kind in ("passes", "patterns", "kernels"):
            for one in getattr(self, kind):
                yield kind, one.name, one
        for path in self.recipes:
            yield "recipes", path.stem, path


def place_of(one: type) -> str:
    """Where a class is written, as `file:line`."""
    try:
        return f"{inspect.getsourcefile(one)}:{inspect.getsourcelines(one)[1]}"
    except (OSError, TypeError):  # made in a shell, so there is no file
        return one.__module__


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("aten", "prim") or name.startswith("autodeploy"):
        raise PluginError(
            f"a plugin cannot be called {name!r}: its name is that of its operators' namespace, made of small letters,"
            " digits and _, and neither torch's own nor ours"
        )


def _check_kind(one: object, kind: type, held: str) -> None:
    if not isinstance(one, kind):
        raise PluginError(f"{held} hold {one!r}, which is a {type(one).__name__}; a {kind.__name__} is expected")


def _check_op(one: object, plugin: str) -> None:
    from autodeploy.ops import CanonicalOp

    _check_kind(one, CanonicalOp, "ops")
    assert isinstance(one, CanonicalOp)
    if one.namespace != plugin and plugin != BUILTIN:
        raise PluginError(
            f"the operator {one.full_name!r} is not in its plugin's namespace: write {plugin}::{one.name}"
        )
    if plugin != BUILTIN:  # ours were defined when autodeploy.ops was imported
        try:
            _ = one.overload
        except RuntimeError as error:
            raise PluginError(f"the operator {one.full_name!r} cannot be defined: {error}") from error


def _check_pass(one: object, plugin: str) -> None:
    from autodeploy.pipeline import Pass

    if not (isinstance(one, type) and issubclass(one, Pass)):
        raise PluginError(f"passes hold {one!r}; a subclass of autodeploy.pipeline.Pass is expected")
    lack = _lack_of_pass(one)
    if lack is not None:
        raise PluginError(f"the pass {one.__name__} ({place_of(one)}) {lack}")


def _lack_of_pass(one: type[Pass]) -> str | None:
    """What a pass is without, if anything. Where it is written takes long to find, and is asked for only then."""
    from autodeploy.pipeline import Pass, Stage

    if not isinstance(getattr(one, "name", None), str):
        return "has no `name: ClassVar[str]`"
    if not isinstance(getattr(one, "stage", None), Stage):
        return "has no `stage: ClassVar[Stage]`"
    if one.run is Pass.run:
        return "has no method `run`"
    for anchors in ("before", "after"):
        if not isinstance(getattr(one, anchors), tuple):
            return f"has a `{anchors}` that is no tuple of names: write ({getattr(one, anchors)!r},)"
    return None


def _check_pattern(one: object, plugin: str) -> None:
    from autodeploy.rewrite import Rule

    _check_kind(one, Rule, "patterns")


def _check_backend(one: object, plugin: str) -> None:
    from autodeploy.kernels import Backend

    _check_kind(one, Backend, "kernels")


def _check_recipe(one: object, plugin: str) -> None:
    _check_kind(one, Path, "recipes")


_CHECKS = {
    "ops": _check_op,
    "passes": _check_pass,
    "patterns": _check_pattern,
    "kernels": _check_backend,
    "recipes": _check_recipe,
}

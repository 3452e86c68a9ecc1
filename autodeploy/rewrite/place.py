"""Where rules applied, and why they did not where it looked as if they should."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch.fx import Node

from autodeploy.graph.origin import module_path, source_line

aten = torch.ops.aten
_OURS = "autodeploy"
_PLAIN = frozenset(
    {
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.neg.default,
        aten.to.dtype,
        aten.reshape.default,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.slice.Tensor,
    }
)


@dataclass(frozen=True)
class Place:
    """A node at which a rule was tried, and what it came from: a module's path and a line of the model's code."""

    rule: str
    root: str
    module: str = ""
    source: str = ""

    @classmethod
    def of(cls, rule: str, root: Node) -> Place:
        """The place of the node `root`."""
        return cls(rule, root.name, module_path(root) or "", source_line(root) or "")

    def __str__(self) -> str:
        return f"{self.rule} at {self.root}{_origin(self.module, self.source)}"


@dataclass(frozen=True)
class Miss:
    """Why a rule did not apply at a root that looked right: the node where matching stopped, and the reason.

    `module` and `source` tell where that node came from; they are empty where export recorded nothing.
    """

    rule: str
    root: str
    node: str
    reason: str
    matched: tuple[str, ...] = field(default=(), repr=False)
    """The nodes that had matched by then."""
    complete: bool = True
    """Whether the whole pattern was there, and was declined."""
    telling: bool = True
    """Whether something matched that is neither plain arithmetic, which is everywhere, nor canonical already."""
    module: str = ""
    source: str = ""

    @classmethod
    def at(cls, rule: str, root: Node, stopped: Node, reason: str) -> Miss:
        """`rule` declined at `root` because of the node `stopped`."""
        return _miss(cls(rule, root.name, stopped.name, reason), root, stopped)

    @classmethod
    def after(
        cls, rule: str, root: Node, stopped: Node, reason: str, matched: Iterable[Node], *, complete: bool
    ) -> Miss:
        """`rule` did not match at `root`: it stopped at the node `stopped` when the nodes `matched` had matched."""
        nodes = sorted(matched)
        telling = any(node.target not in _PLAIN and getattr(node.target, "namespace", "") != _OURS for node in nodes)
        names = tuple(node.name for node in nodes)
        return _miss(cls(rule, root.name, stopped.name, reason, names, complete, telling), root, stopped)

    @property
    def depth(self) -> int:
        """How many nodes had matched."""
        return len(self.matched)

    def __str__(self) -> str:
        return f"{self.rule} at {self.root}: stopped at {self.node}: {self.reason}{_origin(self.module, self.source)}"

    def as_dict(self) -> dict[str, Any]:
        """The miss as JSON data."""
        return {name: getattr(self, name) for name in ("rule", "root", "node", "reason", "module", "source", "depth")}


def _miss(miss: Miss, root: Node, stopped: Node) -> Miss:
    """The miss with its origin; inputs and weights have no line of their own: then it is the root's."""
    known = stopped if source_line(stopped) else root
    return replace(miss, module=module_path(known) or "", source=source_line(known) or "")


def _origin(module: str, source: str) -> str:
    parts = [part for part in (module, source) if part]
    return f" ({', '.join(parts)})" if parts else ""


Told = TypeVar("Told", Place, Miss)


@dataclass(frozen=True)
class Folded(Generic[Told]):
    """Places or misses that differ only in the layer: how many there are, their modules in one, and the first."""

    count: int
    module: str
    first: Told

    def __str__(self) -> str:
        folded = replace(self.first, module=self.module)
        return str(self.first) if self.count == 1 else f"{folded}, {self.count} times"


def fold(places: Iterable[Told]) -> list[Folded[Told]]:
    """Join what repeats in every layer, in the order of first occurrence."""
    groups: dict[tuple[str, ...], list[Told]] = {}
    for place in places:
        reason = _without_numbers(place.reason) if isinstance(place, Miss) else ""
        groups.setdefault((place.rule, layerless(place.module), place.source, reason), []).append(place)
    return [Folded(len(group), module, group[0]) for (_, module, _, _), group in groups.items()]


def layerless(module: str) -> str:
    """A module's path without the numbers of layers: `model.layers.*.mlp`."""
    return ".".join("*" if part.isdigit() else part for part in module.split("."))


def _without_numbers(reason: str) -> str:
    """A reason without the numbers by which the names of nodes and weights of layers differ."""
    return re.sub(r"(?<=[a-z]_)\d+\b|(?<=\.)\d+(?=\.[a-z])", "*", reason)


def closest(misses: Iterable[Miss]) -> list[Miss]:
    """For each root the telling miss that came nearest: of a whole pattern that was declined, or the deepest."""
    best: dict[str, Miss] = {}
    for miss in (one for one in misses if one.telling):
        known = best.get(miss.root)
        if known is None or (miss.complete, miss.depth) > (known.complete, known.depth):
            best[miss.root] = miss
    return list(best.values())


def counts(places: Iterable[Place], rules: Iterable[str]) -> Mapping[str, int]:
    """How often each of `rules` applied."""
    result = dict.fromkeys(rules, 0)
    for place in places:
        result[place.rule] += 1
    return result

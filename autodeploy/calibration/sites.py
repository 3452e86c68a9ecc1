"""Where a graph is calibrated: the projections of one input, and what a factor of that input can be moved into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Graph, Node

from autodeploy.graph.nodes import arguments, calls_of, is_call, value
from autodeploy.quantization import Scheme
from autodeploy.quantization.marks import scheme_of

aten = torch.ops.aten
ops = torch.ops.autodeploy


@dataclass(frozen=True)
class Site:
    """Projections that read one input and are quantized alike."""

    calls: tuple[Node, ...]
    scheme: Scheme

    @property
    def x(self) -> Node:
        """Their input."""
        found = self.calls[0].args[0]
        assert isinstance(found, Node), "a projection reads a node"
        return found

    @property
    def weights(self) -> tuple[Node, ...]:
        """The `get_attr` nodes of their weights."""
        return tuple(call.args[1] for call in self.calls)  # type: ignore[misc]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of their weights."""
        return tuple(str(weight.target) for weight in self.weights)

    def __str__(self) -> str:
        first, *others = (name.removesuffix(".weight") for name in self.names)
        return ", ".join([first, *(name.rpartition(".")[2] for name in others)])


@dataclass(frozen=True)
class Fold:
    """What makes a site's input, so that factors `[K]` of it can be moved there: the rows of `weights`.

    `offset` is what a norm adds to its weight. Where `groups` heads of the input stem from one head of `size` rows,
    they must share their factors; the `attention` over these is then said.
    """

    weights: tuple[str, ...]
    offset: float = 0.0
    groups: int = 1
    size: int = 1
    attention: Node | None = None

    def shared(self, factors: Tensor) -> Tensor:
        """The geometric mean of the factors `[K]` over the heads that must share them, for each of K."""
        by_head = factors.reshape(-1, self.groups, self.size)
        return by_head.log().mean(1, keepdim=True).exp().expand_as(by_head).reshape(-1)

    def rows(self, shared: Tensor) -> Tensor:
        """The factors of the rows of `weights`, of what `shared` gave."""
        return shared.reshape(-1, self.groups, self.size)[:, 0].reshape(-1)


def find_sites(graph: Graph, known: Iterable[str]) -> tuple[Site, ...]:
    """The projections that are marked to be quantized and whose weights are `known` by name, in graph order."""
    names = frozenset(known)
    groups: dict[tuple[object, Scheme], list[Node]] = {}
    for call in calls_of(graph, ops.linear.default):
        weight = call.args[1]
        scheme = scheme_of(weight)
        if scheme.is_quantized and isinstance(weight, Node) and str(weight.target) in names:
            groups.setdefault((call.args[0], scheme), []).append(call)
    return tuple(Site(tuple(calls), scheme) for (_, scheme), calls in groups.items())


def find_fold(site: Site) -> Fold | str:
    """Where factors of the site's input can go, or why nowhere."""
    x = site.x
    if is_call(x, ops.rms_norm.default, ops.layer_norm.default):
        if set(x.users) != set(site.calls):
            return "others read the norm's result too"
        return _norm(x)
    if is_call(x, ops.gated_activation.default) and set(x.users) == set(site.calls):
        return _linear(arguments(x)["up"]) or "no projection makes what the gate multiplies"
    attention = _through_reshapes(x, site.calls)
    if is_call(attention, ops.attention.default):
        return _attention(attention)
    return "its input is made by no norm, gate or attention"


def _norm(norm: Node) -> Fold | str:
    named = arguments(norm)
    weights = [named["weight"], named.get("bias")]
    if not isinstance(named["weight"], Node):
        return "the norm has no weight"
    if any(isinstance(one, Node) and (one.op != "get_attr" or len(one.users) != 1) for one in weights):
        return "the norm's weight is shared"
    names = tuple(str(one.target) for one in weights if isinstance(one, Node))
    return Fold(names, named.get("offset", 0.0))


def _attention(attention: Node) -> Fold | str:
    named = arguments(attention)
    heads, (shared, size) = value(named["q"]).shape[2], value(named["v"]).shape[2:]
    found = _linear(_through_reshapes(named["v"], (attention,)))
    if found is None:
        return "no projection alone makes the values"
    return Fold(found.weights, groups=int(heads) // int(shared), size=int(size), attention=attention)


def _linear(node: object) -> Fold | None:
    """The rows of the projection that `node` is, where one reads it."""
    if not is_call(node, ops.linear.default) or len(node.users) != 1:
        return None
    weights = [one for one in node.args[1:] if isinstance(one, Node)]
    if any(one.op != "get_attr" or len(one.users) != 1 for one in weights):
        return None
    return Fold(tuple(str(one.target) for one in weights))


def _through_reshapes(node: object, users: Iterable[Node]) -> object:
    """What `node` is a reshaped form of, as long as nothing but `users` and reshapes read it."""
    allowed = set(users)
    while isinstance(node, Node) and set(node.users) <= allowed and is_call(node, aten.reshape.default):
        allowed, node = {node}, node.args[0]
    return node if isinstance(node, Node) and set(node.users) <= allowed else None

"""What CANONICALIZE should have replaced: norms, rotary embeddings, activations and attention in primitive form."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch.fx import Graph, Node

from autodeploy.errors import InvariantError
from autodeploy.graph.nodes import arguments, is_call, value
from autodeploy.rewrite.place import Miss, Place, closest, fold

aten = torch.ops.aten
_PARTS = (
    operator.getitem,
    aten.slice.Tensor,
    aten.select.int,
    aten.chunk.default,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unbind.int,
    aten.unsqueeze.default,
)


def find_leftovers(graph: Graph) -> tuple[Place, ...]:
    """The nodes by which one sees, after CANONICALIZE, that something was not replaced; `rule` says what it is."""
    tested = ((node, _TELLTALES[node.target](node)) for node in graph.nodes if node.target in _TELLTALES)
    return tuple(Place.of(kind, node) for node, kind in tested if kind is not None)


def describe(leftovers: Iterable[Place]) -> list[str]:
    """A sentence for each, with what repeats in every layer told once."""
    return [f"left in primitive form: {one}" for one in fold(leftovers)]


def refuse(leftovers: Sequence[Place], misses: Iterable[Miss]) -> None:
    """Raise InvariantError for the first of `leftovers`, with its line and with the miss that came nearest to it."""
    if leftovers:
        first = leftovers[0].root
        near = [miss for miss in closest(misses) if first in (miss.root, miss.node, *miss.matched)]
        reason = f"; {near[0].rule} stopped at {near[0].node}: {near[0].reason}" if near else ""
        raise InvariantError(f"after CANONICALIZE: {describe(leftovers)[0]}{reason}")


def _always(kind: str) -> Callable[[Node], str | None]:
    return lambda node: kind


def _root(node: Node) -> str | None:
    """A square root of a mean: the scale of a norm."""
    return "a norm" if _is_mean(node.args[0]) else None


def _power(node: Node) -> str | None:
    return "a norm" if node.args[1] == -0.5 and _is_mean(node.args[0]) else None


def _is_mean(argument: object) -> bool:
    while is_call(argument, aten.add.Tensor, aten.clamp.default, aten.clamp_min.default):
        argument = argument.args[0]
    return is_call(argument, aten.mean.dim, aten.var.correction, aten.var.dim)


def _gate(node: Node) -> str | None:
    """A sigmoid that multiplies its own input, scaled or not: SiLU, or an approximation of GELU."""
    source = node.args[0]
    own = {source, source.args[0] if is_call(source, aten.mul.Tensor) else source}
    gated = (user for user in node.users if is_call(user, aten.mul.Tensor))
    return "an activation" if any(own.intersection(user.args) for user in gated) else None


def _gelu(node: Node) -> str | None:
    """A tanh to which one is added: an approximation of GELU."""
    return "an activation" if any(is_call(user, aten.add.Tensor) and 1 in user.args for user in node.users) else None


def _softmax(node: Node) -> str | None:
    """A softmax over tokens: of routing it is over experts, whose number is fixed."""
    scores = value(node)
    over = scores.shape[int(arguments(node)["dim"]) % scores.dim()]
    return "attention" if scores.dim() == 4 or not isinstance(over, int) else None


def _turned(node: Node) -> str | None:
    """A concatenation or stack of a negated part with another part of the same tensor: half of a rotation."""
    parts = node.args[0]
    if not isinstance(parts, (list, tuple)) or len(parts) != 2 or not is_call(parts[0], aten.neg.default):
        return None
    first, second = (_whole(part) for part in (parts[0].args[0], parts[1]))
    return "a rotary embedding" if first is second else None


def _whole(part: object) -> object:
    """The tensor that a half or every other element was taken from."""
    while is_call(part, *_PARTS):
        part = part.args[0]
    return part


_TELLTALES: Mapping[object, Callable[[Node], str | None]] = MappingProxyType(
    {
        aten.rsqrt.default: _always("a norm"),
        aten.sqrt.default: _root,
        aten.pow.Tensor_Scalar: _power,
        aten.native_layer_norm.default: _always("a norm"),
        aten.cat.default: _turned,
        aten.stack.default: _turned,
        aten.view_as_complex.default: _always("a rotary embedding"),
        aten.polar.default: _always("a rotary embedding"),
        aten.silu.default: _always("an activation"),
        aten.gelu.default: _always("an activation"),
        aten.relu.default: _always("an activation"),
        aten.erf.default: _always("an activation"),
        aten.sigmoid.default: _gate,
        aten.tanh.default: _gelu,
        aten.softmax.int: _softmax,
        aten._softmax.default: _softmax,
        aten._safe_softmax.default: _softmax,
        aten.scaled_dot_product_attention.default: _always("attention"),
    }
)

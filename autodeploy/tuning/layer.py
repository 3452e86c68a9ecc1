"""The layer that a graph repeats, as it is timed: its calls, and where what they read comes from."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_aggregate

from autodeploy.graph.layers import find_layers
from autodeploy.graph.nodes import form
from autodeploy.kernels import Kernel, KernelTable
from autodeploy.tuning.attention import ATTENTIONS, attention_of
from autodeploy.tuning.choices import Site
from autodeploy.tuning.matmul import MATMULS, Matmul

MOST_BYTES = 4 << 30
"""Of the weights of a layer that is timed."""
_ARITHMETIC = (operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv)
_SIZE = torch.ops.aten.sym_size.int


@dataclass(frozen=True)
class Layer:
    """The calls of a layer in their order, and the same calls of the layer after it, as far as it is the same."""

    calls: tuple[Node, ...]
    following: tuple[Node, ...]

    @cached_property
    def sites(self) -> dict[Node, Site]:
        """The calls that are tuned."""
        sites = ((call, _site_of(call)) for call in self.calls)
        return {call: site for call, site in sites if site is not None}

    @cached_property
    def given(self) -> tuple[Node, ...]:
        """What the calls read and none of them makes."""
        own = set(self.calls)
        return tuple(dict.fromkeys(node for node in _read_by(self.calls) if node not in own))

    @cached_property
    def handed_on(self) -> dict[Node, Node]:
        """Of what is given, that which the layer before makes; with the call that makes the same for the next."""
        own = set(self.calls)
        pairs = zip(_read_by(self.calls), _read_by(self.following), strict=False)
        return {node: made for node, made in pairs if made in own and node not in own}

    @cached_property
    def weight_bytes(self) -> int:
        """What a layer has of its own besides its cache."""
        forms = (form(node) for node in self.given if node.op == "get_attr")
        return sum(dtype.itemsize * prod(size or 1 for size in shape) for dtype, shape in forms)

    @cached_property
    def key(self) -> str:
        """The same for layers of other models that are the same in all that their time depends on."""
        places = {node: place for place, node in enumerate((*self.given, *self.calls))}
        told = [f"{_told(node)} {self.handed_on.get(node) is not None}" for node in self.given]
        told += [f"{call.target}{_placed(call, places)} {self.sites.get(call)!r}" for call in self.calls]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def repeated_layer(graph: Graph) -> Layer | None:
    """From one attention to the next, where layers repeat; more of them where kinds of layers take turns.

    None for a graph without.
    """
    stretches = find_layers(graph).stretches
    calls = [call for stretch in stretches for call in stretch]
    start = next((place for place, call in enumerate(calls) if call.target in ATTENTIONS), None)
    if len(stretches) < 2 or start is None:
        return None
    end = start + len(stretches[0])
    return Layer(tuple(calls[start:end]), tuple(calls[end : end + len(stretches[0])]))


def why_untimed(layer: Layer, table: KernelTable, device: str = "cuda") -> str | None:
    """None where the layer can be run on random numbers, inside a CUDA graph; otherwise the reason."""
    if layer.weight_bytes > MOST_BYTES:
        return f"its weights take {layer.weight_bytes >> 30} GiB"
    reasons = (_why_not_run(call, table, device) for call in layer.calls)
    fed = (_why_not_fed(node, layer) for node in layer.given)
    return next((reason for reason in (*reasons, *fed) if reason is not None), None)


def kernel_of(call: Node, table: KernelTable, device: str) -> Kernel | None:
    """What LOWER chose for a call, or else would choose; None for what no table serves."""
    if not isinstance(call.target, torch._ops.OpOverload) or not any(one.op.overload is call.target for one in table):
        return None
    return table.find(call.target, call.meta["backend"]) if "backend" in call.meta else table.able(call, device)[0]


def _site_of(call: Node) -> Site | None:
    if call.target in MATMULS:
        return Matmul.of(call)
    return attention_of(call, prompt=False) if call.target in ATTENTIONS else None


def _why_not_run(call: Node, table: KernelTable, device: str) -> str | None:
    if any(isinstance(one, torch.device) for one in _constants(call)):
        return f"{call.name} names a device"
    kernel = kernel_of(call, table, device)
    if kernel is not None:
        return f"{kernel.name} waits for the device" if kernel.waits else None
    known = call.target in _ARITHMETIC or getattr(call.target, "namespace", "") == "aten"
    return None if known else f"no kernel of {device} serves {call.target}"


def _why_not_fed(node: Node, layer: Layer) -> str | None:
    """Random numbers stand for those of sites, for other floats, and for none else."""
    if node.target is _SIZE or any(call in layer.sites for call in node.users):
        return None
    if not _is_tensor(node):
        return f"{node.name} is no tensor"
    return None if form(node)[0].is_floating_point else f"{node.name} counts something"


def _is_tensor(node: Node) -> bool:
    """A loaded graph has the forms of several results between parentheses, and of sizes no more than a name."""
    if "val" in node.meta:
        return isinstance(node.meta["val"], torch.Tensor)
    text = str(node.meta.get("val_text", "("))
    return text.endswith("]") and not text.startswith(("(", "["))


def _read_by(calls: Iterable[Node]) -> Iterator[Node]:
    """What calls read, in order, again each time."""
    return (one for call in calls for one in _leaves(call) if isinstance(one, Node))


def _constants(call: Node) -> Iterator[Any]:
    return (one for one in _leaves(call) if not isinstance(one, Node))


def _leaves(call: Node) -> list[Any]:
    """The arguments of a call, those inside of lists as well."""
    found: list[Any] = []
    map_aggregate((call.args, call.kwargs), found.append)
    return found


def _placed(call: Node, places: dict[Node, int]) -> str:
    """The arguments of a call, where nodes are numbers."""
    return str(map_aggregate((call.args, call.kwargs), lambda one: f"%{places[one]}" if isinstance(one, Node) else one))


def _told(node: Node) -> str:
    """What is given, without a name that another model would give it."""
    return node.op if node.target is _SIZE else f"{node.op} {form(node)}"

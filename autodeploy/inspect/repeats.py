"""Joining alike layers that follow each other, also where several kinds of them take turns."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from torch.fx import Node
from torch.fx.node import map_arg

from autodeploy.graph.text import Notation, call_name
from autodeploy.inspect.units import Unit, inputs_of, owner

_MAX_PERIOD = 8  # layers after which kinds may begin again


@dataclass(frozen=True)
class Slot:
    """A place in one layer: the units that stand there, one in each of the layers that are alike."""

    units: tuple[Unit, ...]


@dataclass(frozen=True)
class Layer:
    """One layer, or several alike that were joined, as slots in their order."""

    numbers: tuple[str, ...]
    slots: tuple[Slot, ...]
    signature: Hashable


@dataclass(frozen=True)
class Stack:
    """Layers that repeat `count` times in turn, each joined with those it is alike."""

    count: int
    members: tuple[Stack | Layer, ...]
    rounds: tuple[tuple[Unit, ...], ...]
    """The units of each repetition."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """The numbers of all its layers, in order."""
        return tuple(sorted((number for one in self.members for number in one.numbers), key=int))


def find_repeats(units: Sequence[Unit], notation: Notation) -> list[Slot | Layer | Stack]:
    """The units outside of layers as they are, and layers joined where alike ones follow each other."""
    found: list[Slot | Layer | Stack] = []
    for container, group in groupby(units, key=lambda unit: unit.layer[:-1]):
        if container:
            layers = [_layer(tuple(run), notation) for _, run in groupby(group, key=lambda unit: unit.layer)]
            found += _join(layers)
        else:
            found += [Slot((unit,)) for unit in group]
    return found


def _layer(units: tuple[Unit, ...], notation: Notation) -> Layer:
    position = {node: at for at, unit in enumerate(units) for node in unit.nodes}
    signature = tuple(_label(unit, position, notation) for unit in units)
    return Layer((units[0].layer[-1],), tuple(Slot((unit,)) for unit in units), signature)


def _label(unit: Unit, position: Mapping[Node, int], notation: Notation) -> Hashable:
    """What a call does, on which calls of its own layer, and where in the layer's modules."""
    node = unit.node
    constants = str(map_arg((node.args, node.kwargs), lambda argument: "node"))
    wiring = tuple(position.get(owner(one), -1) for one in inputs_of(node))
    inner = unit.path[len(unit.layer) :]
    return call_name(node.target), constants, notation.result(node), wiring, inner, node.meta.get("backend")


def _join(layers: Sequence[Layer]) -> list[Layer | Stack]:
    """Join what repeats, taking at each place the period that covers most."""
    joined: list[Layer | Stack] = []
    at = 0
    while at < len(layers):
        period, count = _longest(layers, at)
        if count == 1:
            joined.append(layers[at])
        else:
            rounds = [layers[at + period * turn : at + period * (turn + 1)] for turn in range(count)]
            joined.append(_stack(rounds))
        at += period * count
    return joined


def _longest(layers: Sequence[Layer], start: int) -> tuple[int, int]:
    signatures = [layer.signature for layer in layers[start:]]
    best = (1, 1)
    for period in range(1, min(_MAX_PERIOD, len(signatures) // 2) + 1):
        count = 1
        while signatures[count * period : (count + 1) * period] == signatures[:period]:
            count += 1
        if count > 1 and period * count > best[0] * best[1]:
            best = (period, count)
    return best


def _stack(rounds: Sequence[Sequence[Layer]]) -> Stack:
    members = [_merge(alike) for alike in zip(*rounds, strict=True)]
    inner = _join(members) if len(members) > 1 else members
    units = tuple(tuple(unit for layer in turn for slot in layer.slots for unit in slot.units) for turn in rounds)
    return Stack(len(rounds), tuple(inner), units)


def _merge(alike: Sequence[Layer]) -> Layer:
    slots = [
        Slot(tuple(sorted((unit for slot in slots for unit in slot.units), key=lambda unit: unit.index)))
        for slots in zip(*(layer.slots for layer in alike), strict=True)
    ]
    numbers = sorted((number for layer in alike for number in layer.numbers), key=int)
    return Layer(tuple(numbers), tuple(slots), alike[0].signature)

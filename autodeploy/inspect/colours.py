"""What operators are coloured by: their kind, dtype, kernel, device, or share of a step's cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from autodeploy.inspect.kinds import Kind
from autodeploy.inspect.model import GraphView, Group, Operation

PLAIN = "c0"
_HUES = tuple(f"c{number}" for number in range(1, 8))
_STEPS = ((0.001, "q1", "under 0.1 %"), (0.01, "q2", "to 1 %"), (0.05, "q3", "to 5 %"), (0.2, "q4", "to 20 %"))
_MOST = ("q5", "over 20 %")

# A kind has its colour in every graph; what only moves data or stands at the border is grey.
KIND_SLOTS: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.MATMUL: "c1",
        Kind.ATTENTION: "c2",
        Kind.NORM: "c3",
        Kind.ACTIVATION: "c4",
        Kind.EXPERTS: "c5",
        Kind.ROTARY: "c9",
        Kind.LOOKUP: "c7",
        Kind.COLLECTIVE: "c8",
        Kind.QUANTIZE: "c10",
        Kind.ARITHMETIC: "c6",
    }
)


@dataclass(frozen=True)
class Colours:
    """A slot of the palette for each operation and group, and what the slots mean."""

    slots: Mapping[str, str]
    legend: tuple[tuple[str, str], ...]


def colours_of(view: GraphView) -> dict[str, Colours]:
    """The ways in which a graph can be coloured; those that would tell nothing are left out."""
    ways = {"kind": _by_kind(view), "dtype": _by_name(view, lambda one: one.dtype)}
    ways["kernel"] = _by_name(view, lambda one: one.backend)
    ways["device"] = _by_name(view, lambda one: one.device)
    if any(_weight(one) for one in view.operations()):
        ways["cost"] = _by_cost(view)
    return {name: way for name, way in ways.items() if way.legend}


def _by_kind(view: GraphView) -> Colours:
    present = {one.kind for one in view.operations()}
    slots = {one.id: KIND_SLOTS.get(one.kind, PLAIN) for one in view.operations()}
    legend = [(KIND_SLOTS[kind], str(kind)) for kind in Kind if kind in present and kind in KIND_SLOTS]
    plain = [str(kind) for kind in Kind if kind in present and kind not in KIND_SLOTS]
    return Colours(slots, (*legend, *([(PLAIN, ", ".join(plain))] if plain else [])))


def _by_name(view: GraphView, name: Callable[[Operation], str]) -> Colours:
    """A hue for each of the most frequent names, grey for the others."""
    count: dict[str, int] = {}
    for one in view.operations():
        if name(one):
            count[name(one)] = count.get(name(one), 0) + one.repeats
    frequent = sorted(count, key=lambda one: -count[one])
    hues = dict(zip(frequent, _HUES, strict=False))
    rest = frequent[len(_HUES) :]
    legend = [(hue, text) for text, hue in hues.items()]
    slots = {one.id: hues.get(name(one), PLAIN) for one in view.operations()}
    return Colours(slots, (*legend, *([(PLAIN, ", ".join(rest))] if rest else [])))


def _by_cost(view: GraphView) -> Colours:
    whole = sum(_weight(one) for one in view.operations())
    slots = {one.id: _step(_weight(one) / whole) for one in view.operations()}
    slots.update({group.id: _step(_group_weight(group) / whole) for group in view.root.groups()})
    legend: Sequence[tuple[str, str]] = [(slot, label) for _, slot, label in _STEPS]
    return Colours(slots, (*legend, _MOST))


def _step(share: float) -> str:
    return next((slot for limit, slot, _ in _STEPS if share <= limit), _MOST[0])


def _group_weight(group: Group) -> float:
    return sum(_weight(one) for one in group.operations())


def _weight(one: Operation) -> float:
    """Seconds in a step over all layers, or bytes where no device is known; one graph has either for all."""
    if one.cost is None:
        return 0.0
    return one.repeats * (one.cost.num_bytes if one.cost.seconds is None else one.cost.seconds)

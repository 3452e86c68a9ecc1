"""The drawing of a graph: boxes in boxes that open and close, and the lines between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from autodeploy.inspect.colours import colours_of
from autodeploy.inspect.layout import Cell, lay_out
from autodeploy.inspect.model import INPUTS, GraphView, Group, Operation
from autodeploy.inspect.notes import group_note, operation_note, summary
from autodeploy.inspect.page import render
from autodeploy.inspect.wires import Wire, is_port, wires_of

SHOWN_AT_FIRST = 36  # boxes; groups open from the outside in until there are so many

Marks = Mapping[str, str]
"""What a comparison says of operations, by id: added, removed, rewired."""


@dataclass(frozen=True)
class _Member:
    """What a template draws in one cell."""

    cell: Cell
    kind: str
    title: str = ""
    label: str = ""
    aria: str = ""
    results: tuple[str, ...] = ()
    mark: str = ""
    values: tuple[str, ...] = ()
    times: int = 1
    open: bool = False
    summary: str = ""
    members: tuple[_Member, ...] = field(default=())


def draw_graph(view: GraphView, marks: Marks = MappingProxyType({}), opened: frozenset[str] | None = None) -> Markup:
    """The HTML of a graph; `opened` are the groups that are open at first, by default as many as can be overlooked."""
    wires = wires_of(view)
    drawer = _Drawer(wires, marks, open_at_first(view.root) if opened is None else opened)
    members = drawer.members(view.root)
    colours = colours_of(view)
    data = {
        "lines": drawer.lines,
        "notes": {**_notes(view.operations(), operation_note), **_notes(view.root.groups(), group_note)},
        "colours": {name: asdict(one) for name, one in colours.items()},
    }
    return render("graph.html", title=view.title, members=members, colours=list(colours), data=_embedded(data))


def open_at_first(root: Group, budget: int = SHOWN_AT_FIRST) -> frozenset[str]:
    """The groups that open without showing more than `budget` boxes, from the outside in.

    Where layers repeat, those that repeat most open, and nothing beside them.
    """
    longest = max(root.groups(), key=lambda one: one.repeats)
    opened, shown = {root.id}, len(root.children)
    waiting = [longest] if longest.repeats > 1 else _inner(root)
    while waiting:
        group = waiting.pop(0)
        if shown + len(group.children) <= budget:
            shown += len(group.children)
            opened.add(group.id)
            waiting += _inner(group)
    return frozenset(opened)


def _inner(group: Group) -> list[Group]:
    """The groups in a group, layers first; inputs stay closed."""
    groups = (child for child in group.children if isinstance(child, Group) and child.label != INPUTS)
    return sorted(groups, key=lambda one: not one.layers)


class _Drawer:
    """Turns groups into what the template draws, and collects their lines on the way."""

    def __init__(self, wires: Mapping[str, tuple[Wire, ...]], marks: Marks, opened: frozenset[str]) -> None:
        self._wires, self._marks, self._opened = wires, marks, opened
        self.lines: list[dict[str, Any]] = []

    def members(self, group: Group) -> tuple[_Member, ...]:
        wires = self._wires[group.id]
        layout = lay_out(group, wires)
        children = {child.id: child for child in group.children}
        for line in layout.lines:
            self.lines.append({**asdict(line.wire), "bends": line.bends})
        bends = [_Member(cell, "bend") for cell in layout.bends]
        ports = [_port(cell, wires) for cell in layout.cells if is_port(cell.id)]
        drawn = {cell.id: cell for cell in layout.cells}
        boxes = [self._box(drawn[identity], child) for identity, child in children.items()]
        return (*boxes, *ports, *bends)

    def _box(self, cell: Cell, child: Group | Operation) -> _Member:
        if isinstance(child, Operation):
            aria = ", ".join(filter(None, (child.operator, child.label, *child.results)))
            title = child.label if child.operator == "placeholder" else child.operator.removeprefix("aten.")
            label = "" if child.operator == "placeholder" else child.label
            mark = self._marks.get(child.id, "")
            return _Member(cell, "operation", title, label, aria, child.results, mark)
        return _Member(
            cell,
            "group",
            title=child.label,
            aria=f"{child.label}, {summary(child)}",
            mark="" if child.id in self._opened else self._mark_inside(child),
            times=child.repeats,
            open=child.id in self._opened,
            summary=summary(child),
            members=self.members(child),
        )

    def _mark_inside(self, group: Group) -> str:
        """What a closed group shows of the marks in it."""
        marks = {self._marks[one.id] for one in group.operations() if one.id in self._marks}
        return "rewired" if len(marks) > 1 else next(iter(marks), "")


def _port(cell: Cell, wires: tuple[Wire, ...]) -> _Member:
    values = [value for wire in wires if cell.id in (wire.source, wire.target) for value in wire.values]
    return _Member(cell, "port", values=tuple(dict.fromkeys(values)))


def _notes(things: Iterator[Any], note: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    return {one.id: note(one) for one in things}


def _embedded(data: object) -> Markup:
    """JSON that can stand in a script element: no text of it can end the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))

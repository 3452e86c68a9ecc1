"""Where the members of a group stand: rows in the order of computation, and lanes that keep lines straight.

A layered drawing after Sugiyama, Tagawa and Toda (1981): rows by longest path, lanes by the median of what is read, but
long lines run beside the members, so that they cross none. Cells are those of a grid that grows with what they hold, so
that groups can open and close in a browser.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import networkx as nx

from autodeploy.inspect.model import Group
from autodeploy.inspect.wires import Wire, is_port

_ABREAST = 4  # members of a block beside each other


@dataclass(frozen=True)
class Cell:
    """The place of a member, a port or a bend, counted from 0; it may span several lanes."""

    id: str
    row: int
    lane: int
    span: int = 1


@dataclass(frozen=True)
class Line:
    """A wire, and the bends that it passes on its way."""

    wire: Wire
    bends: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The members and ports of a group in cells, and its lines."""

    cells: tuple[Cell, ...]
    bends: tuple[Cell, ...]
    lines: tuple[Line, ...]


def lay_out(group: Group, wires: Sequence[Wire]) -> Layout:
    """Place the members of `group`; ports that values enter by stand above them, those they leave by below.

    Members that read nothing of each other, such as inputs, stand in a block without lines.
    """
    if len(group.children) > 1 and all(is_port(wire.target) for wire in wires):
        cells = (Cell(child.id, at // _ABREAST, at % _ABREAST) for at, child in enumerate(group.children))
        return Layout(tuple(cells), (), ())
    rows = find_rows(group, wires)
    lanes = _near_lanes(rows, wires)
    return _Sides(rows, lanes, wires).layout(group.id)


def find_rows(group: Group, wires: Sequence[Wire]) -> dict[str, int]:
    """The row of each member and port: below all that it reads, and not further above its readers than it must."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(child.id for child in group.children)
    graph.add_edges_from(
        (one.source, one.target) for one in wires if not is_port(one.source) and not is_port(one.target)
    )
    rows = {one: row for row, generation in enumerate(nx.topological_generations(graph), 1) for one in generation}
    for one in reversed(list(nx.topological_sort(graph))):
        if not graph.in_degree(one) and graph.out_degree(one):
            rows[one] = min(rows[user] for user in graph.successors(one)) - 1
    last = max(rows.values()) + 1
    rows.update({wire.source: 0 for wire in wires if is_port(wire.source)})
    rows.update({wire.target: last for wire in wires if is_port(wire.target)})
    numbers = {row: at for at, row in enumerate(sorted(set(rows.values())))}
    return {one: numbers[row] for one, row in rows.items()}


def _near_lanes(rows: dict[str, int], wires: Sequence[Wire]) -> dict[str, int]:
    """Lanes from 0 on, of all but the ports that only long lines reach: at the median of what is read, or near it."""
    near = {end for wire in wires if _is_short(wire, rows) for end in (wire.source, wire.target)}
    placed = [one for one in rows if not is_port(one) or one in near]
    lanes: dict[str, int] = {}
    for row in sorted(set(rows.values())):
        taken: set[int] = set()
        here = [one for one in placed if rows[one] == row]
        wishes = {one: _median(one, rows, lanes, wires) for one in here}
        for one in sorted(here, key=lambda one: abs(wishes[one])):
            lanes[one] = next(lane for lane in _around(wishes[one]) if lane not in taken)
            taken.add(lanes[one])
    first = min(lanes.values())
    return {one: lane - first for one, lane in lanes.items()}


def _median(one: str, rows: dict[str, int], lanes: dict[str, int], wires: Sequence[Wire]) -> int:
    """The middle lane of what `one` reads in the row above, or else anywhere."""
    sources = [wire.source for wire in wires if wire.target == one and wire.source in lanes]
    if not sources:
        return 0
    last = max(rows[source] for source in sources)
    read = sorted(lanes[source] for source in sources if rows[source] == last)
    return read[(len(read) - 1) // 2]


def _around(wish: int) -> Iterator[int]:
    yield wish
    for distance in count(1):
        yield wish + distance
        yield wish - distance


def _is_short(wire: Wire, rows: dict[str, int]) -> bool:
    return rows[wire.target] == rows[wire.source] + 1


class _Sides:
    """Leads long lines down beside the members, short ones nearest; lines of one source share a lane."""

    def __init__(self, rows: dict[str, int], lanes: dict[str, int], wires: Sequence[Wire]) -> None:
        self._rows, self._lanes, self._wires = rows, lanes, wires
        self._width = max(lanes.values()) + 1
        self._taken: set[tuple[int, int]] = set()
        self._side: dict[str, int] = {}
        """The lane of each source's long lines: below 0 on the left, from the width on on the right."""

    def layout(self, group: str) -> Layout:
        for source, rows in sorted(self._long().items(), key=lambda pair: len(pair[1])):
            self._side[source] = self._free(source, rows)
            self._taken.update((row, self._side[source]) for row in rows)
        lanes = {**self._lanes, **{end: self._port_lane(end) for end in self._rows if end not in self._lanes}}
        left = -min(0, *lanes.values(), *self._side.values())
        cells = [Cell(one, row, lanes[one] + left) for one, row in self._rows.items()]
        bends: dict[tuple[str, int], Cell] = {}
        for source, passed in self._between().items():
            for row in passed:
                bends[source, row] = Cell(f"{group}.{len(bends)}", row, self._side[source] + left)
        lines = [Line(one, tuple(bends[one.source, row].id for row in self._rows_of(one))) for one in self._wires]
        return Layout(tuple(self._widened(cells, left)), tuple(bends.values()), tuple(lines))

    def _rows_of(self, wire: Wire) -> range:
        return range(self._rows[wire.source] + 1, self._rows[wire.target])

    def _between(self) -> dict[str, range]:
        """The rows that the long lines of each source pass."""
        longest: dict[str, range] = {}
        for wire in self._wires:
            if len(self._rows_of(wire)) > len(longest.get(wire.source, ())):
                longest[wire.source] = self._rows_of(wire)
        return longest

    def _long(self) -> dict[str, list[int]]:
        """The rows in which the lines of each source need a lane, ports at their ends included."""
        needed = {source: list(rows) for source, rows in self._between().items()}
        for wire in self._wires:
            if wire.source in needed:
                needed[wire.source] += [self._rows[end] for end in (wire.source, wire.target) if end not in self._lanes]
        return needed

    def _port_lane(self, port: str) -> int:
        source = port if port in self._side else next(one.source for one in self._wires if one.target == port)
        return self._side[source]

    def _free(self, source: str, rows: Iterable[int]) -> int:
        """The nearest lane beside the members, on the side where the source stands."""
        wanted = list(rows)
        rightward = self._lanes.get(source, self._width) * 2 >= self._width - 1
        lanes = count(self._width) if rightward else count(-1, -1)
        return next(lane for lane in lanes if not any((row, lane) in self._taken for row in wanted))

    def _widened(self, cells: Sequence[Cell], left: int) -> Iterator[Cell]:
        """Members that are alone in their row stand in the middle of all."""
        inside = [cell for cell in cells if cell.id in self._lanes]
        alone = {cell.row for cell in inside if sum(other.row == cell.row for other in inside) == 1}
        for cell in cells:
            wide = cell.row in alone and cell.id in self._lanes
            yield Cell(cell.id, cell.row, left, self._width) if wide else cell

from __future__ import annotations

from itertools import pairwise

import pytest

from autodeploy.inspect.fold import fold_graph
from autodeploy.inspect.layout import Layout, lay_out
from autodeploy.inspect.model import GraphView, Group
from autodeploy.inspect.wires import Wire, entry, is_port, leave, wires_of
from tests.inspect.graphs import optimized, traced


def views() -> list[GraphView]:
    return [fold_graph(one.graph_module.graph, "llama") for one in (traced(), optimized())]


def layouts(view: GraphView) -> list[tuple[Group, Layout]]:
    wires = wires_of(view)
    return [(group, lay_out(group, wires[group.id])) for group in view.root.groups()]


@pytest.mark.parametrize("which", [0, 1])
def test_lines_run_downwards_and_every_member_has_a_cell_of_its_own(which: int) -> None:
    for group, layout in layouts(views()[which]):
        rows = {cell.id: cell.row for cell in (*layout.cells, *layout.bends)}
        taken = [(cell.row, cell.lane + step) for cell in (*layout.cells, *layout.bends) for step in range(cell.span)]
        assert len(set(taken)) == len(taken), group.label
        assert {child.id for child in group.children} <= rows.keys()
        for line in layout.lines:
            stops = [rows[one] for one in (line.wire.source, *line.bends, line.wire.target)]
            assert all(after == before + 1 for before, after in pairwise(stops)), (group.label, line)


def test_a_value_crosses_each_border_at_a_port() -> None:
    view = views()[1]
    wires = wires_of(view)
    layer = next(group for group in view.root.groups() if group.repeats > 1)
    attention = next(one for one in layer.children if isinstance(one, Group) and one.label == "self_attn")
    rotary = next(one for one in view.root.children if one.label == "rotary_emb")
    assert any(wire.source == rotary.id and wire.target == layer.id for wire in wires["root"])
    assert any(wire.source == entry(layer.id, rotary.id) for wire in wires[layer.id])
    assert any(wire.source == entry(attention.id, rotary.id) for wire in wires[attention.id])
    ends = {wire.target for wire in wires[layer.id] if is_port(wire.target)}
    down = next(one for one in layer.children if isinstance(one, Group) and one.label == "mlp")
    assert leave(layer.id, down.id) in ends


def test_what_is_read_from_afar_passes_beside_the_members() -> None:
    names = ("a", "b", "c")
    members = tuple(Group(name, name, "", ()) for name in names)
    wires = (Wire("a", "b", ("x",)), Wire("b", "c", ("y",)), Wire("a", "c", ("x",)))
    layout = lay_out(Group("g", "g", "", members), wires)
    assert [(cell.id, cell.row, cell.lane) for cell in layout.cells] == [("a", 0, 0), ("b", 1, 0), ("c", 2, 0)]
    (bend,) = layout.bends
    assert (bend.row, bend.lane) == (1, 1)
    assert [line.bends for line in layout.lines] == [(), (), (bend.id,)]


def test_members_that_read_nothing_of_each_other_stand_in_a_block() -> None:
    members = tuple(Group(str(number), "", "", ()) for number in range(6))
    layout = lay_out(Group("g", "inputs", "", members), (Wire("0", leave("g", "0"), ("x",)),))
    assert [(cell.row, cell.lane) for cell in layout.cells] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)]
    assert layout.lines == ()

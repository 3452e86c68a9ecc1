"""What a terminal shows of one layer: its calls in order, with what each reads and gives."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text
from torch.fx import Node

from autodeploy.errors import InputError
from autodeploy.inspect.figures import seconds_text
from autodeploy.inspect.kinds import Kind, kind_of
from autodeploy.inspect.subject import Subject
from autodeploy.inspect.tables import KIND_STYLES, add_numbers, plain_table
from autodeploy.inspect.units import inputs_of, owner

_WIDE = 150  # columns from which on a table has everything


def show_layer(subject: Subject, number: int, width: int) -> Table:
    """The calls of one layer in order: what each reads and gives. InputError for a layer that is not there."""
    layers = [group for group in subject.view.root.groups() if group.layers]
    known = [name for group in layers for name in group.layers]
    found = [group for group in layers if str(number) in group.layers]
    if not found:
        raise InputError(f"--layer {number}: {_range(known)}")
    group = found[-1]  # the innermost
    at = group.layers.index(str(number))
    nodes = {node.name: node for node in subject.graph_module.graph.nodes}
    table = plain_table(f"Layer {number}" + (f", one of {len(group.layers)} alike" if group.repeats > 1 else ""))
    _layer_columns(table, width)
    for one in group.operations():
        name = one.names[at]
        read, given = ", ".join(_reads(nodes[name])), ", ".join(one.results)
        style = KIND_STYLES.get(one.kind, "")
        if width < _WIDE:
            table.add_row(Text(name, style), Text.assemble((read, "dim"), f" → {given}"))
            continue
        seconds = seconds_text(one.cost.seconds) if one.cost and one.cost.seconds else ""
        table.add_row(name, Text(one.operator, style), one.label, Text(read), Text(given), seconds)
    return table


def _reads(node: Node) -> list[str]:
    """The calls and inputs whose values a node takes, without sizes."""
    owners = dict.fromkeys(map(owner, inputs_of(node)))
    return [one.name for one in owners if kind_of(one) is not Kind.SIZE]


def _layer_columns(table: Table, width: int) -> None:
    """Names are never broken, for one copies them; a narrow terminal has room for little else."""
    table.add_column("call", no_wrap=True)
    if width < _WIDE:
        table.add_column("reads → gives", overflow="fold")
        return
    table.add_column("operator", no_wrap=True)
    table.add_column("module", overflow="fold")
    table.add_column("reads", overflow="fold", style="dim", ratio=3)
    table.add_column("gives", overflow="fold", ratio=2)
    add_numbers(table, "predicted")


def _range(known: Sequence[str]) -> str:
    if not known:
        return "the graph has no layers"
    numbers = sorted(map(int, known))
    return f"there is no such layer; they are {numbers[0]} to {numbers[-1]}"

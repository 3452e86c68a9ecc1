"""What a terminal shows of a graph: the tree of modules and layers, sums by operator, one operator's facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from autodeploy.errors import InputError, nearest
from autodeploy.inspect.figures import bytes_text, flops_text, seconds_text, share_text
from autodeploy.inspect.kinds import Kind
from autodeploy.inspect.model import INPUTS, GraphView, Group, Operation
from autodeploy.inspect.notes import cost_of, operation_note, summary
from autodeploy.inspect.subject import DECODE
from autodeploy.inspect.tables import KIND_STYLES, add_numbers, plain_table

_CLOSE = 0.7  # nodes are too many to list, and so are named only when one is meant
_WIDE = 110  # columns from which on the summary has everything


@dataclass(frozen=True)
class _Sum:
    """The calls of one operator together."""

    operator: str
    kind: Kind
    calls: int
    weight_bytes: int
    num_bytes: float
    num_flops: float
    seconds: float


def show_tree(view: GraphView) -> Tree:
    """The graph by module and layer; a line for each operator, with its shape."""
    tree = Tree(Text(view.title, "bold"), guide_style="dim")
    _grow(tree, view.root)
    return tree


def show_summary(view: GraphView, width: int) -> Table:
    """How often each operator is called, what it weighs, and what it takes of a decode step, most first."""
    sums = _sums(view.operations())
    timed, costed = any(one.seconds for one in sums), any(one.num_bytes for one in sums)
    whole = sum(one.seconds for one in sums)
    step = f", in a decode step of {DECODE.num_requests} x {DECODE.context:,} tokens" if timed else ""
    table = plain_table(f"Operators{step}")
    table.add_column("operator", no_wrap=True)
    add_numbers(table, "calls", "weights")
    add_numbers(table, *(("moves", "computes") if costed and width >= _WIDE else ()))
    add_numbers(table, *(("predicted", "share") if timed else ()))
    for one in sorted(sums, key=lambda one: (-one.seconds, -one.num_bytes, -one.calls)):
        cells = [str(one.calls), _unless_zero(one.weight_bytes, bytes_text)]
        if costed and width >= _WIDE:
            cells += [_unless_zero(one.num_bytes, bytes_text), _unless_zero(one.num_flops, flops_text)]
        if timed:
            cells += [_unless_zero(one.seconds, seconds_text), share_text(one.seconds, whole) if one.seconds else ""]
        table.add_row(Text(one.operator, KIND_STYLES.get(one.kind, "")), *cells)
    return table


def show_operation(view: GraphView, name: str) -> RenderableType:
    """What is known of a node, or where an operator is called. InputError, with the nearest, for neither."""
    exact = [one for one in view.operations() if name in one.names]
    called = [one for one in view.operations() if name in (one.operator, one.operator.removeprefix("aten."))]
    if exact:
        return _facts(exact[0], name)
    if called:
        table = plain_table(f"{name} is called {sum(one.repeats for one in called)} times")
        for heading in ("first node", "times", "module", "gives"):
            table.add_column(heading, overflow="fold")
        for one in called:
            table.add_row(one.names[0], str(one.repeats), one.module, ", ".join(one.results))
        return table
    operators = {one.operator for one in view.operations()}
    nodes = {found for one in view.operations() for found in one.names}
    known = operators | nodes if get_close_matches(name, nodes, cutoff=_CLOSE) else operators
    raise InputError(f"--op {name}: no node or operator of the graph has that name; {nearest(name, known)}")


def _grow(tree: Tree, group: Group) -> None:
    for child in group.children:
        if isinstance(child, Operation):
            tree.add(_leaf(child))
        elif child.label == INPUTS:
            names = ", ".join(one.label for one in child.operations())
            tree.add(Text.assemble((INPUTS, "bold"), f"  {names}", style="dim"))
        else:
            label = Text.assemble((child.label, "bold"))
            if child.repeats > 1:
                label.append(f", {child.repeats} times", "bold cyan")
            label.append(f"  {_told(child)}", "dim")
            _grow(tree.add(label), child)


def _told(group: Group) -> str:
    cost = cost_of(group)
    return summary(group) + (f", {seconds_text(cost.seconds)}" if cost and cost.seconds else "")


def _leaf(one: Operation) -> Text:
    line = Text(one.operator, KIND_STYLES.get(one.kind, ""))
    if one.label:
        line.append(f" {one.label}")
    if one.results:
        line.append(f"  {one.results[0]}{', …' if len(one.results) > 1 else ''}", "dim")
    return line


def _facts(one: Operation, name: str) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for what, text in operation_note(one)["rows"]:
        grid.add_row(what, Text(text))
    return Lines(Text(name, "bold"), grid)


def _sums(operations: Iterable[Operation]) -> list[_Sum]:
    groups: dict[str, list[Operation]] = {}
    for one in operations:
        if one.kind not in (Kind.INPUT, Kind.OUTPUT, Kind.SIZE):
            groups.setdefault(one.operator, []).append(one)
    return [
        _Sum(
            operator,
            group[0].kind,
            sum(one.repeats for one in group),
            sum(one.repeats * one.weight_bytes for one in group),
            sum(one.repeats * one.cost.num_bytes for one in group if one.cost),
            sum(one.repeats * one.cost.num_flops for one in group if one.cost),
            sum(one.repeats * (one.cost.seconds or 0) for one in group if one.cost),
        )
        for operator, group in groups.items()
    ]


def _unless_zero(number: float, text: Callable[[float], str]) -> str:
    return text(number) if number else ""

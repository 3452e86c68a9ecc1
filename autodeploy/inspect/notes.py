"""What is told of an operation or a group when one looks at it."""

from __future__ import annotations

from typing import Any

from autodeploy.inspect.figures import bytes_text, flops_text, seconds_text
from autodeploy.inspect.model import INPUTS, Group, Operation, OperatorCost


def operation_note(one: Operation) -> dict[str, Any]:
    """A title, rows of what is known, and the names that a search finds it by."""
    rows = [
        ("operator", one.operator),
        ("kind", str(one.kind)),
        ("module", one.module),
        ("source", one.source),
        *(("result", result) for result in one.results),
        *(("weight", weight) for weight in one.weights),
        ("weight bytes", bytes_text(one.weight_bytes) if one.weight_bytes else ""),
        *_cost_rows(one.cost, one.repeats),
        ("kernel", one.backend),
        ("device", one.device),
        ("call", one.text),
        ("stands for", f"{one.repeats} nodes, {one.names[0]} to {one.names[-1]}" if one.repeats > 1 else ""),
    ]
    return {"title": one.names[0], "rows": [row for row in rows if row[1]], "names": [*one.names, one.module]}


def group_note(group: Group) -> dict[str, Any]:
    """The same of a group: what it holds, and what that costs."""
    operations = list(group.operations())
    weight_bytes = sum(one.weight_bytes * one.repeats for one in operations)
    rows = [
        ("module", group.module),
        ("layers", f"{len(group.layers)} alike, drawn once" if group.repeats > 1 else ""),
        (_counted(group), str(sum(one.repeats for one in operations))),
        ("weight bytes", bytes_text(weight_bytes) if weight_bytes else ""),
        *_cost_rows(cost_of(group), 1),
        ("device", operations[0].device if operations else ""),
    ]
    return {"title": group.label, "rows": [row for row in rows if row[1]], "names": [group.label, group.module]}


def summary(group: Group) -> str:
    """One line: how many operators, and their weights."""
    operations = list(group.operations())
    weight_bytes = sum(one.weight_bytes * one.repeats for one in operations)
    number = sum(one.repeats for one in operations)
    return f"{number} {_counted(group)}" + (f", {bytes_text(weight_bytes)}" if weight_bytes else "")


def _counted(group: Group) -> str:
    return INPUTS if group.label == INPUTS else "operators"


def cost_of(group: Group) -> OperatorCost | None:
    """What a group costs in a step, layers counted as often as they are there; None where nothing is known."""
    known = [(one.cost, one.repeats) for one in group.operations() if one.cost is not None]
    if not known:
        return None
    timed = all(cost.seconds is not None for cost, _ in known)
    return OperatorCost(
        sum(times * cost.num_bytes for cost, times in known),
        sum(times * cost.num_flops for cost, times in known),
        sum(times * (cost.seconds or 0.0) for cost, times in known) if timed else None,
    )


def _cost_rows(cost: OperatorCost | None, times: int) -> list[tuple[str, str]]:
    if cost is None:
        return []
    each = " each" if times > 1 else ""
    rows = [(f"moves{each}", bytes_text(cost.num_bytes))]
    if cost.num_flops:
        rows.append((f"computes{each}", flops_text(cost.num_flops)))
    if cost.seconds is not None:
        rows.append((f"predicted{each}", seconds_text(cost.seconds)))
        rows += [("predicted in all", seconds_text(times * cost.seconds))] if times > 1 else []
    return rows

"""The lines that each group draws: between its members, from what enters it, to what leaves it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autodeploy.inspect.model import GraphView, Group


@dataclass(frozen=True)
class Wire:
    """A line from one end to another within a group; an end is a member's id, or a port's.

    A port is where lines cross the border of a group: `g3<n1` is where what n1 gives enters g3, and `g3>n4` where what
    n4 gives leaves it. `values` are the names of what flows.
    """

    source: str
    target: str
    values: tuple[str, ...]


def entry(group: str, source: str) -> str:
    """The port of `group` at which what the member `source` outside gives enters."""
    return f"{group}<{source}"


def leave(group: str, source: str) -> str:
    """The port of `group` at which what its member `source` gives leaves."""
    return f"{group}>{source}"


def is_port(end: str) -> bool:
    """Whether the end of a wire is a port."""
    return "<" in end or ">" in end


def wires_of(view: GraphView) -> dict[str, tuple[Wire, ...]]:
    """The wires of each group, by its id. A value that goes to the next layer leaves its group, and ends there."""
    above = dict(_above(view.root, ()))
    found: dict[str, dict[tuple[str, str], list[str]]] = {group.id: {} for group in view.root.groups()}
    for flow in view.flows:
        source, target = above[flow.source], above[flow.target]
        shared = _num_shared(source, target)
        if flow.carried:
            stack = _innermost_stack(view.root, source[:shared])
            _leave(found, source, stack, flow.value)
            continue
        _leave(found, source, shared, flow.value)
        _draw(found[source[shared - 1]], source[shared], target[shared], flow.value)
        for depth in range(shared, len(target) - 1):
            group = target[depth]
            _draw(found[group], entry(group, source[shared]), target[depth + 1], flow.value)
    return {
        group: tuple(Wire(source, target, tuple(values)) for (source, target), values in wires.items())
        for group, wires in found.items()
    }


def _leave(found: Mapping[str, dict[tuple[str, str], list[str]]], path: Sequence[str], depth: int, value: str) -> None:
    """Lead a value from the operation at the end of `path` out of all its groups from `depth` on."""
    for group, member in zip(path[depth:], path[depth + 1 :], strict=False):
        _draw(found[group], member, leave(group, member), value)


def _draw(wires: dict[tuple[str, str], list[str]], source: str, target: str, value: str) -> None:
    values = wires.setdefault((source, target), [])
    if value not in values:
        values.append(value)


def _above(group: Group, path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The groups around each operation, outermost first, and the operation itself at the end."""
    for child in group.children:
        if isinstance(child, Group):
            yield from _above(child, (*path, group.id))
        else:
            yield child.id, (*path, group.id, child.id)


def _num_shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many groups two operations share; an operation that reads its own kind shares all of them."""
    shared = 0
    for left, right in zip(one[:-1], other[:-1], strict=False):
        if left != right:
            break
        shared += 1
    return shared


def _innermost_stack(root: Group, path: Sequence[str]) -> int:
    """The depth in `path` of the innermost group that repeats."""
    repeated = {group.id for group in root.groups() if group.repeats > 1}
    return max(depth for depth, identity in enumerate(path) if identity in repeated)

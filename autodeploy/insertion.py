"""Putting passes that say where they belong (`before`, `after`) into a pipeline that does not list them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from autodeploy.errors import RecipeError, nearest

if TYPE_CHECKING:
    import networkx


class Staged(Protocol):
    """What a pipeline asks of a pass class, beside its fields."""

    @property
    def stage(self) -> IntEnum:
        """Where it belongs."""

    @property
    def cleanup(self) -> bool:
        """Whether it may run at any stage."""

    @property
    def before(self) -> tuple[str, ...]:
        """The passes that it precedes."""

    @property
    def after(self) -> tuple[str, ...]:
        """The passes that it follows."""


@dataclass(frozen=True)
class Place:
    """One pass of the finished pipeline: its position in the list it came from, or why it was put here."""

    name: str
    listed: int | None = None
    why: str = ""


_Key = tuple[int, int, int, str]


@dataclass(frozen=True)
class _Slot:
    """A pass that a recipe lists. A clean-up runs at the stage of what was before it."""

    index: int
    name: str
    stage: int


def anchors(one: Staged) -> str:
    """The anchors of a pass in words, such as `after fuse_qkv and before page_attention`; empty where it has none."""
    sides = (("after", one.after), ("before", one.before))
    return " and ".join(f"{side} {', '.join(names)}" for side, names in sides if names)


def anchor_problem(one: Staged, passes: Mapping[str, Staged]) -> str | None:
    """Why `one` can stand in no pipeline made of `passes`: an anchor that does not exist, or of an impossible stage."""
    name = getattr(one, "name", str(one))
    for side, names in (("before", one.before), ("after", one.after)):
        for anchor in names:
            if anchor not in passes:
                return f"pass {name!r} runs {side} {anchor!r}, which is no pass; {nearest(anchor, passes)}"
            other = passes[anchor]
            if one.cleanup or other.cleanup:
                continue
            if (other.stage < one.stage) if side == "before" else (other.stage > one.stage):
                return (
                    f"pass {name!r} of stage {one.stage.name} cannot run {side} {anchor!r} of stage {other.stage.name}"
                )
    return None


def insert_passes(listed: Sequence[str], passes: Mapping[str, Staged], off: Iterable[str]) -> tuple[Place, ...]:
    """The pipeline `listed` with every other pass of `passes` that has an anchor, and all of its anchors in it.

    A pass comes right behind the last pass it runs `after`, or else right in front of the first it runs `before`, as
    far as its stage allows; where two want one place, stage and then name decide. Passes that are `off` stay out. The
    order of `listed` never changes. Raises RecipeError, naming the pass, when no order satisfies everybody.
    """
    slots = _slots(listed, passes)
    chosen = _with_anchors(listed, passes, set(off))
    if not chosen:
        return tuple(Place(slot.name, slot.index) for slot in slots)
    import networkx  # a quarter of a second, for which no artifact should wait

    graph = networkx.DiGraph()
    networkx.add_path(graph, slots)
    for name in chosen:
        _add_edges(graph, name, passes[name], slots, chosen)
    _refuse_cycle(graph, chosen)
    keys = _sort_keys(slots, passes, chosen)
    return tuple(
        Place(node, why=anchors(passes[node])) if isinstance(node, str) else Place(node.name, node.index)
        for node in networkx.lexicographical_topological_sort(graph, keys.__getitem__)
    )


def _slots(listed: Sequence[str], passes: Mapping[str, Staged]) -> list[_Slot]:
    slots: list[_Slot] = []
    stage = 0
    for index, name in enumerate(listed):
        stage = stage if passes[name].cleanup else max(stage, int(passes[name].stage))
        slots.append(_Slot(index, name, stage))
    return slots


def _with_anchors(listed: Sequence[str], passes: Mapping[str, Staged], off: set[str]) -> set[str]:
    """The names of the passes to insert: those whose anchors are listed, or inserted themselves."""
    chosen = {name for name, one in passes.items() if one.before + one.after} - off - set(listed)
    while True:
        there = chosen | set(listed)
        kept = {name for name in chosen if there.issuperset(passes[name].before + passes[name].after)}
        if kept == chosen:
            return chosen
        chosen = kept


def _add_edges(graph: networkx.DiGraph, name: str, one: Staged, slots: list[_Slot], chosen: set[str]) -> None:
    """What must come before `name`, and what after it: its anchors, and the passes of other stages."""
    graph.add_node(name)
    for anchor in one.after:
        graph.add_edge(anchor if anchor in chosen else _occurrence(slots, anchor, one, last=True), name)
    for anchor in one.before:
        graph.add_edge(name, anchor if anchor in chosen else _occurrence(slots, anchor, one, last=False))
    for slot in slots if not one.cleanup else ():
        if slot.stage < one.stage:
            graph.add_edge(slot, name)
        elif slot.stage > one.stage:
            graph.add_edge(name, slot)


def _occurrence(slots: list[_Slot], anchor: str, one: Staged, *, last: bool) -> _Slot:
    """The listed pass that `anchor` means: of several, the nearest to the stage of `one` that it can stand behind."""
    found = [slot for slot in slots if slot.name == anchor]
    if not one.cleanup:
        fitting = [slot for slot in found if (slot.stage <= one.stage if last else slot.stage >= one.stage)]
        found = fitting or found
    return found[-1] if last else found[0]


def _refuse_cycle(graph: networkx.DiGraph, chosen: set[str]) -> None:
    import networkx

    if networkx.is_directed_acyclic_graph(graph):
        return
    cycle = [edge[0] for edge in networkx.find_cycle(graph)]
    names = [node if isinstance(node, str) else node.name for node in cycle]
    first = min(name for name in names if name in chosen)
    turned = names[names.index(first) :] + names[: names.index(first)]
    raise RecipeError(
        f"pass {first!r} has no place: each of these runs before the next, {' → '.join([*turned, first])};"
        f" --set passes.{first}=off leaves it out"
    )


def _sort_keys(slots: list[_Slot], passes: Mapping[str, Staged], chosen: set[str]) -> dict[_Slot | str, _Key]:
    """Where each node would like to stand: behind (1) or in front of (-1) a listed pass."""
    keys: dict[_Slot | str, _Key] = {slot: (slot.index, 0, 0, "") for slot in slots}
    waiting = sorted(chosen)
    while waiting:
        able = [name for name in waiting if _wish(keys, slots, passes[name], chosen) is not None]
        for name in able or waiting:  # passes that only name each other go to the end of their stage
            index, side = _wish(keys, slots, passes[name], chosen) or (len(slots), 0)
            keys[name] = (index, side, int(passes[name].stage), name)
        waiting = [name for name in waiting if name not in keys]
    return keys


def _wish(
    keys: Mapping[_Slot | str, _Key], slots: list[_Slot], one: Staged, chosen: set[str]
) -> tuple[int, int] | None:
    """The position beside the anchors of `one` that have a place so far; None when none has."""

    def beside(anchor: str, *, last: bool) -> list[tuple[int, int]]:
        if anchor in chosen:
            return [keys[anchor][:2]] if anchor in keys else []
        return [(_occurrence(slots, anchor, one, last=last).index, 1 if last else -1)]

    behind = [wish for anchor in one.after for wish in beside(anchor, last=True)]
    front = [wish for anchor in one.before for wish in beside(anchor, last=False)]
    return max(behind) if behind else min(front, default=None)

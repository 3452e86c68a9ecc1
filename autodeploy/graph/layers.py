"""Finding the repeated layers of a graph by their structure, so that work on one layer serves them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch.fx import Graph, Node
from torch.fx.node import map_arg

_MAX_PERIODS = 8  # candidates that are tried; the right one spans most of the graph, and so comes first


@dataclass(frozen=True)
class Layers:
    """A run of alike stretches of a graph, each a list of nodes in graph order. Empty when nothing repeats."""

    stretches: tuple[tuple[Node, ...], ...]

    def __len__(self) -> int:
        return len(self.stretches)


def find_layers(graph: Graph) -> Layers:
    """The longest run of alike stretches, cut where the fewest values cross from one stretch to the next.

    Two nodes are alike when they call the same operator with the same constants, on nodes as far back in their
    stretches. Linear in the number of nodes for each period that is tried.
    """
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    labels = [_label(node) for node in nodes]
    start, period, count = _longest_run(labels)
    if count < 2:
        return Layers(())
    candidates = range(start, min(start + period, len(nodes) - period * (count - 1) + 1))
    best = min(candidates, key=lambda first: _num_crossing(nodes, first, period))
    count = min(count, _alike_from(labels, best, period))
    pieces = (tuple(nodes[best + period * index : best + period * (index + 1)]) for index in range(count))
    return Layers(tuple(pieces))


def _label(node: Node) -> tuple[Any, ...]:
    """What a node does, without which nodes it does it to."""
    constants = map_arg((node.args, node.kwargs), lambda argument: "node")
    return (node.target, str(constants), node.meta.get("backend"))


def _longest_run(labels: Sequence[tuple[Any, ...]]) -> tuple[int, int, int]:
    """Start, period and count of the repetition that covers most: periods are distances between equal rare labels."""
    best, covered = (0, 0, 0), 0
    for period in sorted(_periods(labels)):
        index = 0
        while index + period < len(labels):
            same = 0
            while index + period + same < len(labels) and labels[index + same] == labels[index + period + same]:
                same += 1
            count = same // period + 1
            if count > 1 and count * period > covered:
                best, covered = (index, period, count), count * period
            index += same + 1
    return best


def _periods(labels: Sequence[tuple[Any, ...]]) -> list[int]:
    """The distances between neighbouring nodes of one label that span most of the graph: a layer's length is one."""
    places: dict[tuple[Any, ...], list[int]] = {}
    for index, label in enumerate(labels):
        places.setdefault(label, []).append(index)
    distances = Counter(after - before for found in places.values() for before, after in pairwise(found))
    spans = {distance: distance * count for distance, count in distances.items()}
    return sorted(spans, key=lambda distance: -spans[distance])[:_MAX_PERIODS]


def _alike_from(labels: Sequence[tuple[Any, ...]], first: int, period: int) -> int:
    """How many stretches of `period` labels from `first` on equal the first one."""
    count = 1
    while labels[first + count * period : first + (count + 1) * period] == labels[first : first + period]:
        count += 1
    return count


def _num_crossing(nodes: Sequence[Node], first: int, period: int) -> int:
    """How many values the stretch at `first` hands over to the next one and that one does not also hand on."""
    own = set(nodes[first : first + period])
    after = set(nodes[first + period :])
    return sum(1 for node in own if any(user in after for user in node.users))

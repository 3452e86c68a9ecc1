"""What views show of a graph, as plain data: operators in groups, and the values that flow between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autodeploy.inspect.kinds import Kind

INPUTS = "inputs"
"""What the group of a graph's inputs is called."""


@dataclass(frozen=True)
class OperatorCost:
    """What one call does in a step: bytes moved, floating-point operations, and seconds where a device is known."""

    num_bytes: float = 0.0
    num_flops: float = 0.0
    seconds: float | None = None
    precision: str = ""
    """Of the arithmetic, as a GPU file names it: bf16, fp8 …"""


@dataclass(frozen=True)
class Operation:
    """A call, an input or the output; in repeated layers, one for all that are alike.

    `names` are the nodes it stands for, one a layer, in order; the other texts are the first one's.
    """

    id: str
    names: tuple[str, ...]
    operator: str
    kind: Kind
    label: str
    """The last part of its module's path, where that tells more than its group does."""
    text: str
    results: tuple[str, ...]
    """Dtype and shape of each result: `bf16[1, T, 8192]`."""
    module: str
    source: str
    weights: tuple[str, ...]
    weight_bytes: int
    """Of one call."""
    backend: str
    device: str
    cost: OperatorCost | None

    @property
    def repeats(self) -> int:
        """How many nodes it stands for."""
        return len(self.names)

    @property
    def dtype(self) -> str:
        """Of its first result."""
        return self.results[0].partition("[")[0] if self.results else ""


@dataclass(frozen=True)
class Group:
    """A module, or a run of alike layers of which the first is shown; groups nest.

    `layers` are the numbers of the layers that it stands for, and empty for a group that is no layer.
    """

    id: str
    label: str
    module: str
    children: tuple[Group | Operation, ...]
    repeats: int = 1
    layers: tuple[str, ...] = ()

    def operations(self) -> Iterator[Operation]:
        """All operators in it, in the order of the graph."""
        for child in self.children:
            if isinstance(child, Group):
                yield from child.operations()
            else:
                yield child

    def groups(self) -> Iterator[Group]:
        """It and all groups in it, outer ones first."""
        yield self
        for child in self.children:
            if isinstance(child, Group):
                yield from child.groups()


@dataclass(frozen=True)
class Flow:
    """A value on its way from one operator to another; `carried` to the next layer of a repeated one."""

    source: str
    target: str
    value: str
    carried: bool = False


@dataclass(frozen=True)
class GraphView:
    """A graph as views show it. `num_nodes` counts those of the graph itself."""

    title: str
    root: Group
    flows: tuple[Flow, ...]
    num_nodes: int

    def operations(self) -> Iterator[Operation]:
        """All operators, in the order of the graph."""
        return self.root.operations()

    def as_dict(self) -> dict[str, Any]:
        """The view as JSON data."""
        return asdict(self)


def total(operations: Iterator[Operation]) -> Mapping[Kind, OperatorCost]:
    """What the operators of each kind cost together, layers counted as often as they are there."""
    sums: dict[Kind, OperatorCost] = {}
    for one in operations:
        if one.cost is not None:
            so_far = sums.get(one.kind, OperatorCost(seconds=0.0))
            sums[one.kind] = _plus(so_far, one.cost, one.repeats)
    return sums


def _plus(so_far: OperatorCost, cost: OperatorCost, times: int) -> OperatorCost:
    return OperatorCost(
        so_far.num_bytes + times * cost.num_bytes,
        so_far.num_flops + times * cost.num_flops,
        (so_far.seconds or 0.0) + times * (cost.seconds or 0.0),
    )

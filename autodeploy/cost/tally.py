"""The costs of a program as plain data: counted at a few numbers of rows, and known for all.

Every figure of a call grows evenly with the tokens and the requests of a step, but where code takes another path for
one of them, and but for what follows from the cache or from how tokens choose experts, which has formulas of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from autodeploy.cost.costs import Costs
from autodeploy.cost.model import CostModel
from autodeploy.cost.step import StepShape
from autodeploy.cost.work import Work
from autodeploy.program import ProgramSpec

T = TypeVar("T")

AREAS = (((1, 1),), ((1, 2), (1, 3)), ((2, 1), (3, 1), (2, 2)))
"""Requests, and tokens of each, at which steps are counted: of one token, of one prompt, and of several requests."""
CHECKS = ((1, 4096), (64, 64))
"""Where what was found is compared with what is counted."""


@dataclass(frozen=True)
class Line:
    """A figure that grows evenly: so much to begin with, and more with each token and each request of a step."""

    fixed: float
    token: float = 0.0
    request: float = 0.0

    @classmethod
    def through(cls, values: Sequence[float]) -> Line:
        """The line through the values at the rows of one of `AREAS`."""
        if len(values) == 1:
            return cls(values[0])
        token = values[1] - values[0] if len(values) == 2 else (values[2] - values[0]) / 2
        request = 0.0 if len(values) == 2 else values[1] - values[0] - token
        return cls(values[0] - 2 * token - 2 * request, token, request)

    def at(self, shape: StepShape) -> float:
        """The figure of a step."""
        return self.fixed + self.token * shape.total_tokens + self.request * shape.num_requests


@dataclass(frozen=True)
class Call:
    """A call of the graph: its work in the smallest step, and how the figures grow that depend on the rows."""

    work: Work
    row_bytes: Line
    num_flops: Line
    weight_bytes: Mapping[str, Line]
    """Of experts, all bytes."""
    routed: Line | None
    """The tokens that choose experts."""

    @classmethod
    def through(cls, works: Sequence[Work]) -> Call:
        """The call whose works at the rows of one of `AREAS` are these."""
        first = works[0]
        names = first.weight_bytes
        return cls(
            first,
            Line.through([one.row_bytes for one in works]),
            Line.through([one.num_flops for one in works]),
            {name: Line.through([one.whole_bytes(name) for one in works]) for name in names},
            Line.through([one.routed.num_tokens for one in works if one.routed]) if first.routed else None,
        )

    def at(self, shape: StepShape) -> Work:
        """The work in a step."""
        weights, routed = {name: line.at(shape) for name, line in self.weight_bytes.items()}, self.work.routed
        if routed is not None and self.routed is not None:
            routed = replace(routed, num_tokens=int(self.routed.at(shape)))
            weights = {name: routed.share * size for name, size in weights.items()}
        grown = replace(
            self.work,
            row_bytes=self.row_bytes.at(shape),
            num_flops=self.num_flops.at(shape),
            weight_bytes=weights,
            routed=routed,
        )
        return grown.at(shape)


@dataclass(frozen=True)
class Area:
    """Steps in which code takes the same paths: their calls, and the memory that is alive after one of them."""

    calls: tuple[Call, ...]
    alive: tuple[Line, ...]


@dataclass(frozen=True)
class Tally(Costs):
    """The costs of a program without its graph. The areas are in the order of `AREAS`."""

    spec: ProgramSpec
    areas: tuple[Area, Area, Area]
    weights: float
    cache: float

    @classmethod
    def of(cls, model: CostModel) -> Tally | None:
        """What `model` counts; None where that grows unevenly."""
        first, *others = (_area(model, rows) for rows in AREAS)
        if first is None or None in others:
            return None
        found = cls(model.spec, (first, *others), model.weight_bytes(), model.cache_bytes())  # type: ignore[arg-type]
        return found if all(found._agrees(model, StepShape(*rows, rows[1])) for rows in CHECKS) else None

    def works(self, shape: StepShape) -> list[Work]:
        """What each operator does in a step, in order."""
        return [one.at(shape) for one in self._area(shape).calls]

    def peak_bytes(self, shape: StepShape) -> int:
        """The memory that a step takes for its activations."""
        return int(max((one.at(shape) for one in self._area(shape).alive), default=0))

    def weight_bytes(self) -> float:
        """The size of all weights."""
        return self.weights

    def cache_bytes(self) -> float:
        """What one token takes in the cache, over all layers."""
        return self.cache

    def _area(self, shape: StepShape) -> Area:
        if shape.num_requests > 1:
            return self.areas[2]
        return self.areas[1 if shape.num_tokens > 1 else 0]

    def _agrees(self, model: CostModel, shape: StepShape) -> bool:
        return self.works(shape) == model.works(shape) and self.peak_bytes(shape) == model.peak_bytes(shape)


def _area(model: CostModel, rows: Sequence[tuple[int, int]]) -> Area | None:
    """What is counted at `rows`; None where the calls are not the same at all of them."""
    shapes = [StepShape(requests, tokens, tokens) for requests, tokens in rows]
    works = _by_call([model.works(one) for one in shapes], lambda work: (work.name, frozenset(work.weight_bytes)))
    alive = _by_call([model.alive_bytes(one) for one in shapes], lambda pair: pair[0])
    if works is None or alive is None:
        return None
    lines = dict.fromkeys(Line.through([size for _, size in each]) for each in alive)
    return Area(tuple(map(Call.through, works)), tuple(lines))


def _by_call(counts: Sequence[Sequence[T]], known_by: Callable[[T], object]) -> list[tuple[T, ...]] | None:
    """What was counted, call by call; None where it is not of the same calls."""
    if len({tuple(map(known_by, one)) for one in counts}) > 1:
        return None
    return list(zip(*counts, strict=True))

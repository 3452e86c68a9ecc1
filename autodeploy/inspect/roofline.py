"""The roofline plot (Williams, Waterman and Patterson, 2009): what each operator reaches, and what bounds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from markupsafe import Markup

from autodeploy.cost import Pace, StepShape
from autodeploy.cost.pace import Timed
from autodeploy.inspect.colours import KIND_SLOTS, PLAIN
from autodeploy.inspect.figures import flops_text, seconds_text
from autodeploy.inspect.page import render
from autodeploy.inspect.scale import Axis, decades
from autodeploy.inspect.subject import DECODE, PROMPT, Subject
from autodeploy.rewrite.place import layerless

_LABEL_HEIGHT, _DIGIT_WIDTH, _GAP = 15, 6, 20  # pixels; the gap is that around a label
SHOWN = 14  # rows of the table; what follows takes next to no time
STEPS = (("decode", DECODE), ("prompt", PROMPT))


@dataclass(frozen=True)
class Spot:
    """Calls of one operator in one module of all layers, and what they do together in a step."""

    number: int
    operator: str
    module: str
    slot: str
    calls: int
    num_bytes: float
    num_flops: float
    seconds: float
    bound: str

    @property
    def intensity(self) -> float:
        """Operations for each byte moved."""
        return self.num_flops / self.num_bytes

    @property
    def rate(self) -> float:
        """Operations a second that are predicted."""
        return self.num_flops / self.seconds


def find_spots(subject: Subject, shape: StepShape) -> list[Spot]:
    """The operators of a step by module, layers together, the longest first."""
    kinds = {name: one.kind for one in subject.view.operations() for name in one.names}
    modules = {name: one.module for one in subject.view.operations() for name in one.names}
    groups: dict[tuple[str, str], list[Timed]] = {}
    for timed in subject.timed(shape):
        module = layerless(modules.get(timed.work.name, ""))
        groups.setdefault((timed.work.operator, module), []).append(timed)
    ranked = sorted(groups.items(), key=lambda pair: -_seconds(pair[1]))
    return [
        Spot(
            number=number,
            operator=operator,
            module=module,
            slot=KIND_SLOTS.get(kinds[group[0].work.name], PLAIN),
            calls=len(group),
            num_bytes=sum(one.work.num_bytes for one in group),
            num_flops=sum(one.work.num_flops for one in group),
            seconds=_seconds(group),
            bound=group[0].bound,
        )
        for number, ((operator, module), group) in enumerate(ranked, 1)
    ]


def draw_roofline(subject: Subject, shapes: Sequence[tuple[str, StepShape]] = STEPS) -> Markup:
    """A plot and a table for each of the steps; a sentence instead where no device is known."""
    gpu = subject.gpu
    if gpu is None or subject.model is None:
        return Markup("<p>No device is known that this graph runs on, so that times cannot be predicted.</p>")
    pace = Pace.of(gpu)
    found = [(name, shape, find_spots(subject, shape)) for name, shape in shapes]
    panels = [(name, _sentence(shape, spots), spots, _plot(pace, spots)) for name, shape, spots in found]
    return render("roofline.html", gpu=gpu, panels=panels, shown=SHOWN)


def _sentence(shape: StepShape, spots: Iterable[Spot]) -> str:
    total = sum(spot.seconds for spot in spots)
    tokens = "one token" if shape.num_tokens == 1 else f"{shape.num_tokens} tokens"
    who = "one request" if shape.num_requests == 1 else f"each of {shape.num_requests} requests"
    return f"{tokens} of {who}, with {shape.context:g} of context: {seconds_text(total)} of operators"


def _plot(pace: Pace, spots: Sequence[Spot]) -> Markup:
    """The roofs of the device, and a dot for each operator that computes."""
    dots = [spot for spot in spots if spot.num_flops][:SHOWN]
    roofs = [(name, rate) for name, rate in pace.flops.items() if name in ("fp32", "bf16", "fp8")]
    peak = max(rate for _, rate in roofs)
    intensities = [0.5, 10 * peak / pace.read, *(dot.intensity for dot in dots)]
    x = Axis(*decades(min(intensities), max(intensities)), 62, 560, is_log=True)
    y = Axis(*decades(min([pace.read / 10, *(dot.rate for dot in dots)]), peak), 300, 16, is_log=True)
    lines = [(name, _roof(x, y, pace.read, rate), flops_text(rate)) for name, rate in roofs]
    places = [(dot.number, x.at(dot.intensity), y.at(dot.rate)) for dot in dots]
    labels = label_dots(places)
    return render("roofline_plot.html", x=x, y=y, roofs=lines, dots=dots, labels=labels, read=pace.read)


def label_dots(places: Sequence[tuple[int, float, float]]) -> list[tuple[str, float, float]]:
    """The numbers of dots beside them; dots whose labels would cover each other share one, at the rightmost."""
    clusters = [[place] for place in places]
    while (pair := next(((a, b) for a, b in combinations(clusters, 2) if _collide(a, b)), None)) is not None:
        clusters.remove(pair[1])
        pair[0].extend(pair[1])
    return [_label(one) for one in clusters]


def _label(cluster: Sequence[tuple[int, float, float]]) -> tuple[str, float, float]:
    """The text of a cluster, and where its dots end: across, and on average upwards."""
    numbers = ", ".join(str(number) for number, _, _ in sorted(cluster))
    return numbers, max(x for _, x, _ in cluster), sum(y for _, _, y in cluster) / len(cluster)


def _collide(one: Sequence[tuple[int, float, float]], other: Sequence[tuple[int, float, float]]) -> bool:
    """Whether the label of either would cover the label or a dot of the other."""
    (text, x, y), (other_text, other_x, other_y) = _label(one), _label(other)
    if abs(y - other_y) < _LABEL_HEIGHT and x < other_x + _width(other_text) and other_x < x + _width(text):
        return True
    return _covers(_label(one), other) or _covers(_label(other), one)


def _covers(label: tuple[str, float, float], dots: Sequence[tuple[int, float, float]]) -> bool:
    text, x, y = label
    return any(abs(y - up) < _LABEL_HEIGHT and x <= across < x + _width(text) for _, across, up in dots)


def _width(text: str) -> float:
    return _GAP + _DIGIT_WIDTH * len(text)


def _roof(x: Axis, y: Axis, read: float, rate: float) -> str:
    start = max(x.low, y.low / read)
    corners = ((start, start * read), (rate / read, rate), (x.high, rate))
    return " ".join(f"{x.at(across)},{y.at(up)}" for across, up in corners)


def _seconds(group: Iterable[Timed]) -> float:
    return sum(one.seconds for one in group)

"""The memory plan: what stands in a device's memory, and what a step needs besides while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from autodeploy.cost import Fit, StepShape, fit_memory
from autodeploy.inspect.page import render
from autodeploy.inspect.scale import Axis
from autodeploy.inspect.subject import Subject


@dataclass(frozen=True)
class Portion:
    """A part of a device's memory, and the share of the whole that it is."""

    name: str
    slot: str
    num_bytes: float
    share: float


@dataclass(frozen=True)
class Moment:
    """A call of a step, and the bytes of activations that are alive once it has run."""

    name: str
    module: str
    num_bytes: int


def portions(fit: Fit) -> list[Portion]:
    """How a device's memory is shared out; what exceeds it is not drawn."""
    parts = (
        ("weights", "c1", fit.weights),
        ("reserved", "c0", fit.reserve),
        ("workspace of steps", "c2", fit.workspace),
        ("cache", "c3", max(0.0, fit.cache)),
    )
    whole = max(fit.capacity, sum(size for _, _, size in parts))
    named = [Portion(name, slot, size, size / whole) for name, slot, size in parts if size]
    rest = whole - sum(size for _, _, size in parts)
    return [*named, *([Portion("free", "q1", rest, rest / whole)] if rest > 0.001 * whole else [])]


def moments(subject: Subject, shape: StepShape) -> list[Moment]:
    """The calls of a step in order, with what is alive after each."""
    modules = {name: one.module for one in subject.view.operations() for name in one.names}
    alive = subject.model.alive_bytes(shape) if subject.model is not None else []
    return [Moment(name, modules.get(name, ""), size) for name, size in alive]


def draw_memory(subject: Subject) -> Markup:
    """The device's memory as a bar, and over the largest prompt step what its activations take."""
    if subject.model is None or subject.gpu is None or subject.runtime is None:
        return Markup("<p>No device is known that this graph runs on, so that there is no plan for its memory.</p>")
    runtime, model = subject.runtime, subject.model
    fit = fit_memory(subject.gpu, model, model.weight_bytes(), runtime.max_batch_size, runtime.max_num_tokens)
    tokens = min(runtime.max_num_tokens, model.spec.max_model_len)
    curve = moments(subject, StepShape(1, tokens, tokens))
    peak = max(curve, key=lambda one: one.num_bytes)
    x = Axis(0, len(curve) - 1, 70, 985)
    y = Axis(0, 1.12 * peak.num_bytes, 230, 14)
    return render(
        "memory.html",
        gpu=subject.gpu,
        fit=fit,
        portions=portions(fit),
        tokens=tokens,
        peak=peak,
        at=curve.index(peak),
        area=_area(curve, x, y),
        x=x,
        y=y,
        batch=runtime.max_batch_size,
    )


def _area(curve: list[Moment], x: Axis, y: Axis) -> str:
    """Steps, for what is alive changes from call to call; of calls that share a pixel, the one that needs most."""
    tallest: dict[float, int] = {}
    for index, one in enumerate(curve):
        tallest[x.at(index)] = max(one.num_bytes, tallest.get(x.at(index), 0))
    steps = " ".join(f"H{across}V{y.at(size)}" for across, size in tallest.items())
    return f"M{x.start} {y.start}{steps}V{y.start}Z"

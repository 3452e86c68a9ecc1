"""The views, one function each. All of them give a page that draws itself in a notebook, or is saved as a file."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from markupsafe import Markup
from torch.fx import GraphModule

from autodeploy.cost import StepShape
from autodeploy.graph.diff import GraphDiff
from autodeploy.inspect.diff_page import draw_diff
from autodeploy.inspect.figures import bytes_text, count_text
from autodeploy.inspect.graph_page import draw_graph
from autodeploy.inspect.memory import draw_memory
from autodeploy.inspect.page import Page, render, tabs
from autodeploy.inspect.pipeline_page import Worths, draw_pipeline, draw_report
from autodeploy.inspect.roofline import draw_roofline
from autodeploy.inspect.subject import DECODE, PROMPT, Subject

if TYPE_CHECKING:
    from autodeploy.artifact import Artifact
    from autodeploy.export import Traced
    from autodeploy.optimizer import Optimized
    from autodeploy.pipeline import PassReport

    Viewable: TypeAlias = Traced | Optimized | Artifact | GraphModule | Subject

_NO_WORTHS: Worths = MappingProxyType({})


def subject_of(what: Viewable) -> Subject:
    """What is known of the thing that is to be looked at."""
    from autodeploy.artifact import Artifact
    from autodeploy.export import Traced
    from autodeploy.optimizer import Optimized

    match what:
        case Traced():
            return Subject.of_traced(what)
        case Optimized():
            return Subject.of_result(what)
        case Artifact():
            return Subject.of_artifact(what)
        case GraphModule():
            return Subject(type(what).__name__, what)
        case _:
            return what


def view(what: Viewable) -> Page:
    """All that is known: the graph, and of a result of passes also the passes, the roofline and the memory plan."""
    subject = subject_of(what)
    if not subject.history:
        return view_graph(subject)
    panels = {
        "Graph": draw_graph(subject.view),
        "Passes": draw_pipeline(subject.history),
        "Roofline": draw_roofline(subject),
        "Memory": draw_memory(subject),
    }
    return Page(subject.title, _head(subject) + tabs(panels))


def view_graph(what: Viewable) -> Page:
    """The graph, folded by module and repeated layer."""
    subject = subject_of(what)
    return Page(subject.title, _head(subject) + draw_graph(subject.view))


def view_pipeline(what: Viewable, worths: Worths = _NO_WORTHS) -> Page:
    """The passes as a timeline; `worths` says what each is worth, see `predict_worths` and `with_measured`."""
    subject = subject_of(what)
    return Page(f"Passes of {subject.title}", Markup("<h2>Passes</h2>") + draw_pipeline(subject.history, worths))


def view_report(report: PassReport) -> Page:
    """What one pass did."""
    return Page(report.name, draw_report(report.as_dict()))


def view_diff(diff: GraphDiff) -> Page:
    """What a pass changed: both graphs side by side, centred on it."""
    return Page(diff.name, draw_diff(diff))


def view_roofline(what: Viewable, **shapes: StepShape) -> Page:
    """The operators under the device's roofline, in the steps given by name, by default a decode and a prompt step."""
    subject = subject_of(what)
    steps = tuple(shapes.items()) or (("decode", DECODE), ("prompt", PROMPT))
    return Page(f"Roofline of {subject.title}", Markup("<h2>Roofline</h2>") + draw_roofline(subject, steps))


def view_memory(what: Viewable) -> Page:
    """What stands in the device's memory, and what activations take over a step."""
    subject = subject_of(what)
    return Page(f"Memory of {subject.title}", Markup("<h2>Memory</h2>") + draw_memory(subject))


def _head(subject: Subject) -> Markup:
    operators = sum(one.repeats for one in subject.view.operations())
    weight_bytes = sum(one.weight_bytes * one.repeats for one in subject.view.operations())
    facts = [f"{operators} operators", f"{count_text(subject.num_parameters)} parameters in {bytes_text(weight_bytes)}"]
    return render("head.html", title=subject.title, facts=facts)

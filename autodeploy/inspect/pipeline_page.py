"""The pipeline as a timeline: when each pass ran, what it matched, and what it is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from autodeploy.inspect.page import render


@dataclass(frozen=True)
class Worth:
    """How much longer a step takes without a pass, in percent: as the cost model predicts, and as was measured."""

    predicted: float | None = None
    measured: float | None = None


@dataclass(frozen=True)
class Bar:
    """A pass on the timeline; `start` and `width` are percent of the whole."""

    index: int
    report: Mapping[str, Any]
    start: float
    width: float
    slot: str
    worth: Worth

    @property
    def is_idle(self) -> bool:
        """Whether it changed nothing."""
        return not self.report["matches"]


Worths = Mapping[int, Worth]
"""What passes are worth, by their place in the pipeline."""

_STAGES = ("EXPORT", "CLEAN", "CANONICALIZE", "SHARD", "FUSE", "QUANTIZE", "CACHE", "TUNE", "LOWER", "CAPTURE")
_SLOTS = dict(zip(_STAGES, ("c0", "c7", "c3", "c8", "c1", "c5", "c2", "c6", "c4", "c0"), strict=True))


def timeline(history: Sequence[Mapping[str, Any]], worths: Worths = MappingProxyType({})) -> list[Bar]:
    """The passes in order, each where its time lies among that of all."""
    whole = sum(report["seconds"] for report in history) or 1.0
    bars, at = [], 0.0
    for index, report in enumerate(history):
        width = 100 * report["seconds"] / whole
        slot = _SLOTS.get(report.get("stage", ""), "c0")
        bars.append(Bar(index, report, at, width, slot, worths.get(index, Worth())))
        at += width
    return bars


def draw_pipeline(history: Iterable[Mapping[str, Any]], worths: Worths = MappingProxyType({})) -> Markup:
    """A row for each pass, with its bar on a common axis of seconds."""
    reports = list(history)
    return render(
        "pipeline.html",
        bars=timeline(reports, worths),
        seconds=sum(report["seconds"] for report in reports),
        before=reports[0]["nodes_before"] if reports else 0,
        after=reports[-1]["nodes_after"] if reports else 0,
        predicted=any(one.predicted is not None for one in worths.values()),
        measured=any(one.measured is not None for one in worths.values()),
    )


def draw_report(report: Mapping[str, Any]) -> Markup:
    """What one pass did: its figures, the rules it tried, and why they did not match elsewhere."""
    return render("report.html", report=report)

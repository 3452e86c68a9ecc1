"""What the profiler saw, as rows that add up to the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch._C._autograd import DeviceType
from torch.profiler import profile

BETWEEN, WITHIN, OVERLAP = "(idle between steps)", "(idle within steps)", "(at the same time as another)"
OUTSIDE = "(outside operators)"
LAST_OF_STEP = "Memcpy DtoH"
"""Sampled tokens go to the host at the end of a step, and nothing else does."""


@dataclass(frozen=True)
class ProfileRow:
    """Milliseconds and calls of a kernel or operator, in one step."""

    name: str
    ms: float
    calls: float


class Span(NamedTuple):
    """Something the device did, from `start` to `end`, in microseconds."""

    start: float
    end: float
    name: str


def events_of(seen: profile) -> Iterable[Any]:
    """What the profiler recorded."""
    return seen.events() or ()  # type: ignore[no-untyped-call]


def device_spans(seen: profile) -> list[Span]:
    """What a GPU did, in order."""
    spans = (
        Span(one.time_range.start, one.time_range.end, one.name)
        for one in events_of(seen)
        if one.device_type == DeviceType.CUDA
    )
    return sorted(spans)


def device_rows(spans: Sequence[Span], num_steps: int) -> list[ProfileRow]:
    """Rows that add up to the time from the first kernel's start to the last one's end, the longest first.

    Idle time between steps is what the host could not hide; that within them is between kernels.
    """
    idle = {BETWEEN: 0.0, WITHIN: 0.0, OVERLAP: 0.0}
    counts = dict.fromkeys(idle, 0)
    reached, last = spans[0].start, ""
    for span in spans:
        if span.start > reached:
            kind, amount = BETWEEN if last.startswith(LAST_OF_STEP) else WITHIN, span.start - reached
        else:
            kind, amount = OVERLAP, max(span.start - reached, span.start - span.end)
        idle[kind] += amount
        counts[kind] += amount != 0
        if span.end >= reached:
            reached, last = span.end, span.name
    rest = [ProfileRow(kind, idle[kind] / num_steps / 1e3, counts[kind] / num_steps) for kind in idle if counts[kind]]
    return [*_by_name(((one.name, one.end - one.start) for one in spans), num_steps), *rest]


def host_rows(seen: profile, whole_ms: float, num_steps: int) -> list[ProfileRow]:
    """Rows of the operators that ran on the CPU, and what of `whole_ms` was spent outside them."""
    rows = _by_name(((one.name, float(one.self_cpu_time_total)) for one in events_of(seen)), num_steps)
    return [*rows, ProfileRow(OUTSIDE, whole_ms - sum(row.ms for row in rows), 1)]


def _by_name(durations: Iterable[tuple[str, float]], num_steps: int) -> list[ProfileRow]:
    found: dict[str, list[float]] = defaultdict(list)
    for name, microseconds in durations:
        found[name].append(microseconds)
    rows = [ProfileRow(name, sum(one) / num_steps / 1e3, len(one) / num_steps) for name, one in found.items()]
    return sorted(rows, key=lambda row: -row.ms)

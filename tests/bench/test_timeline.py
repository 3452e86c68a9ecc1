"""What a profiler saw adds up, whatever overlaps."""

from __future__ import annotations

import pytest
from rich.console import Console

from autodeploy.bench.profile import StepProfile
from autodeploy.bench.timeline import BETWEEN, OVERLAP, WITHIN, ProfileRow, Span, device_rows

COPY = "Memcpy DtoH (Device -> Pinned)"


def test_idle_time_is_within_steps_or_between_them() -> None:
    spans = [
        Span(10, 14, "matmul"),
        Span(15, 18, "norm"),  # 1 idle, within
        Span(18, 19, COPY),
        Span(24, 28, "matmul"),  # 5 idle, between two steps
        Span(26, 30, "norm"),  # 2 at the same time
        Span(27, 28, "norm"),  # 1 more, hidden whole
        Span(30, 31, COPY),
    ]
    rows = {row.name: row for row in device_rows(spans, num_steps=2)}
    assert {name: 2e3 * row.ms for name, row in rows.items()} == pytest.approx(
        {"matmul": 8, "norm": 8, COPY: 2, BETWEEN: 5, WITHIN: 1, OVERLAP: -3}
    )
    assert rows["norm"].calls == 1.5
    assert sum(row.ms for row in rows.values()) == pytest.approx((31 - 10) / 2e3)


def test_a_profile_names_the_longest_and_sums_the_rest() -> None:
    kernels = [ProfileRow(f"kernel {index}", 1.0, 1) for index in range(20)]
    profile = StepProfile(
        "decode:1", 20, 22.0, {"launch": 3.0, "wait": 19.0}, 22.0, (*kernels, ProfileRow(BETWEEN, 2.0, 1))
    )
    assert (profile.device_ms, profile.exposed_ms, profile.busy_ms) == (20.0, 2.0, 3.0)
    console = Console(width=100, record=True)
    console.print(profile)
    shown = console.export_text()
    assert "kernel 15" in shown
    assert "kernel 16" not in shown
    assert "4.0000  18.2 %      4  (4 others)" in shown
    assert "2.000 (9.1 % of the step) are not hidden" in shown

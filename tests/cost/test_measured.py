"""The cost model against steps that an H200 took: the committed table holds, and so does the bar."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fit_pace import FITTED_KINDS, PRIORS, REACH, fit, pace_of, read_steps, with_values
from predicted_h200 import PAGE, RESULTS, compare, markdown, measured_steps

from autodeploy.cost import Pace, reach
from autodeploy.hardware import load_gpu

MOST = 0.15


@pytest.mark.slow
def test_every_measured_step_is_predicted_within_15_percent_and_the_table_says_so() -> None:
    kept = json.loads((RESULTS / "predicted_h200.json").read_text())["rows"]
    assert [row for row in kept if abs(row["error"]) > MOST] == []
    assert markdown(kept) in PAGE.read_text()
    rows = compare(measured_steps())
    assert [row["measured_ms"] for row in rows] == [row["measured_ms"] for row in kept]
    # Passes change, and so may what is predicted: by more than this, the table is to be written again.
    assert [row["predicted_ms"] for row in rows] == pytest.approx([row["predicted_ms"] for row in kept], rel=0.02)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("h200_decode_*.json")), ids=lambda file: file.stem)
def test_the_cache_that_was_planned_is_one_that_a_real_device_had(file: Path) -> None:
    """No plan exceeds the memory, nor leaves much of it."""
    tokens = json.loads(file.read_text()).get("cache_tokens")
    if tokens is not None:
        assert tokens["planned"] <= tokens["allocated"] <= 1.1 * tokens["planned"]


@pytest.mark.slow
def test_what_operators_reach_is_what_the_script_finds() -> None:
    steps, known = read_steps(), Pace.of(load_gpu("h200"))
    fitted = pace_of(fit(steps))
    assert [one.seconds(known) for one in steps] == pytest.approx([one.seconds(fitted) for one in steps], rel=0.03)


def test_the_script_writes_what_it_fitted_and_nothing_else() -> None:
    written = with_values(REACH.read_text(), dict.fromkeys(PRIORS, 7.0))
    found: dict[str, Any] = {"__name__": reach.__name__}
    exec(compile(written, REACH.name, "exec"), found)
    compute = {**reach.REACH.compute, "matmul": 7.0}
    kernels = {**reach.GPU.kernels, **dict.fromkeys(FITTED_KINDS, 7e-6)}
    told = replace(reach.REACH, compute=compute, scaled=7.0, paged_read=7.0, sharpness=7.0)
    assert vars(found["REACH"]) == vars(told)
    latencies = dict.fromkeys(("many_rows", "exposed", "exposed_request"), 7e-6)
    assert vars(found["GPU"]) == vars(replace(reach.GPU, kernels=kernels, **latencies))
    assert vars(found["CPU"]) == vars(reach.CPU)

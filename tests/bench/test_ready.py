"""The time to the first answer is that of a fresh process with empty caches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autodeploy.bench.parse import parse_workload
from autodeploy.bench.ready import Ready, Started
from autodeploy.cli import main
from autodeploy.errors import InputError


@pytest.mark.slow
def test_an_artifact_is_started_afresh(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autodeploy.bench.ready.CACHES", ("TRITON_CACHE_DIR",))  # CPU kernels compile for a minute
    out = str(tmp_path / "out")
    assert main(["build", str(model_folder), "--gpu", "cpu", "--load-format", "random", "--out", out]) == 0
    capsys.readouterr()
    assert main(["bench", out, "--run", "ready:cold", "--set", "runtime.num_pages=64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (figure,), (start,) = found["figures"], found["starts"]
    assert (figure["run"], figure["metric"], figure["value"]) == ("ready:cold", "first answer", start["answered"])
    assert {"graph", "weights", "memory"} <= start["phases"].keys()
    assert sum(start["phases"].values()) < start["loaded"] < start["answered"]


def test_a_start_says_where_its_time_went() -> None:
    started = Started("ready", 9.0, 9.5, {"imports": 3.0, "weights": 5.25})
    assert started.sentence() == "ready: loaded after 9.0 s, of which imports 3.0, weights 5.2; answered after 9.5 s"
    assert [figure.value for figure in started.figures] == [9.5]


def test_names_are_read_back() -> None:
    assert [parse_workload(name) for name in ("ready", "ready:cold")] == [Ready(), Ready(cold=True)]
    with pytest.raises(InputError, match=r"ready:hot: expected ready\[:cold\]"):
        parse_workload("ready:hot")

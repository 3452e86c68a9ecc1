"""Workloads by name, from the command line to the report; how fast anything is, no test says."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from random import Random
from statistics import fmean, median
from typing import Any

import pytest

from autodeploy.bench.arrivals import Arrival, Lengths, draw_arrivals
from autodeploy.bench.parse import FORMS, TARGETS, parse_workload, parse_workloads
from autodeploy.bench.requests import first_token_seconds, random_prompts
from autodeploy.bench.serving import Client, Serve, Served, percentile
from autodeploy.bench.workloads import Decode, Offline, Prefix, Ttft
from autodeploy.cli import main
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.llm import LLM
from autodeploy.runtime.settings import RuntimeSettings
from tests.runtime.fakes import ScriptedModel

RANDOM = ("--gpu", "cpu", "--load-format", "random", "--json")
RUNS = ("decode:2", "ttft:9", "offline:6x4x5", "prefix:48+4x3", "serve:inf@2x4")


@pytest.fixture
def roomy_model(model_folder: Path) -> Path:
    """A decode workload takes 258 positions."""
    file = model_folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": 512}))
    return model_folder


def bench(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    code = main(["bench", *words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def run_words(*runs: str) -> list[str]:
    return [word for run in runs for word in ("--run", run)]


def test_every_workload_has_its_rows(roomy_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "new" / "report.json"
    found = bench(capsys, str(roomy_model), *run_words(*RUNS), *RANDOM, "--profile", "--save", str(saved))
    rows = found["figures"]
    assert [row["run"] for row in rows] == [
        name for name, count in zip(RUNS, (1, 1, 1, 3, 11), strict=True) for _ in range(count)
    ]
    assert all(row["value"] > 0 and row["unit"] for row in rows)
    for row in rows:
        floored = row["run"].split(":")[0] in ("decode", "ttft", "offline")
        assert (row["floor"] is not None, row["bound"] in ("memory", "compute")) == (floored, floored)
        if floored:
            ratio = row["value"] / row["floor"]
            assert row["fraction"] == pytest.approx(ratio if row["higher_is_better"] else 1 / ratio)
    assert set(found["ceilings"]) == {"device", "read_gb_s", "tflops", "dtype", "narrow_tflops"}
    assert found["versions"]["torch"]
    assert found["machine"]["cpu"]
    assert found["command"].startswith("autodeploy")
    assert [one["run"] for one in found["profiles"]] == ["decode:2", "ttft:9"]
    for profile in found["profiles"]:
        assert sum(row["ms"] for row in profile["rows"]) == pytest.approx(profile["profiled_ms"])
        assert sum(profile["host_ms"].values()) == pytest.approx(profile["step_ms"])
        assert 0 < profile["device_ms"] < profile["profiled_ms"]
    assert found["profiles"][0]["num_steps"] == 20
    assert json.loads(saved.read_text()) == {name: value for name, value in found.items() if name != "baseline"}


def test_a_baseline_decides_the_exit_code(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "report.json"
    words = (str(model_folder), *run_words("ttft:9", "offline:6x4x5"), "--gpu", "cpu", "--load-format", "random")
    assert main(["bench", *words, "--save", str(saved)]) == 0
    report = json.loads(saved.read_text())
    for row in report["figures"]:
        row["value"] *= 1e3 if row["run"].startswith("ttft") else 1e-3  # what no noise makes up for
    saved.write_text(json.dumps(report))
    assert main(["bench", *words, "--baseline", str(saved)]) == 0
    for row in report["figures"]:
        row["value"] *= 1e-6 if row["run"].startswith("ttft") else 1e6
    saved.write_text(json.dumps(report))
    capsys.readouterr()
    assert main(["bench", *words, "--baseline", str(saved), "--json"]) == 1
    compared = json.loads(capsys.readouterr().out)["baseline"]
    assert compared["worse"] == ["ttft:9 ttft", "offline:6x4x5 output"]
    assert main(["bench", *words, "--baseline", str(saved)]) == 1
    assert "2 of 2 got worse" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--run", "decode:0"), "--run decode:0: expected decode:BATCH"),
        (("--run", "decoed:1"), "no such workload; did you mean 'decode'?"),
        (("--run", "serve:1.2.3"), "1.2.3 is no rate"),
        (("--run", "ttft:4", "--batch", "2"), "leave out --batch"),
        (("--run", "ttft:4", "--baseline", "missing.json"), "missing.json: No such file"),
        (("--run", "offline:4x4x4", "--profile"), "add --run decode:1"),
        (("--run", "decode:4", "--set", "runtime.max_batch_size=2"), "max_batch_size=2 lets no more than that"),
        (("--profile",), "--profile is about workloads"),
    ],
)
def test_mistakes_are_named(
    model_folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    assert main(["bench", str(model_folder), "--gpu", "cpu", "--load-format", "random", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_names_are_read_back() -> None:
    serving = (Serve(2.5), Serve(math.inf, 32), Serve(8, None, 64), Offline(3, 4, 5))
    for one in (*TARGETS, *serving):
        assert parse_workload(one.name) == one
    assert parse_workloads(["decode:8", "targets", "decode:8"]) == [
        Decode(8),
        *(one for one in TARGETS if one != Decode(8)),
    ]
    assert (Ttft(128) in TARGETS, Prefix(4096, 128, 64) in TARGETS, set(FORMS)) == (
        True,
        True,
        {one.name.split(":")[0] for one in (*TARGETS, *serving)},
    )


def test_arrivals_have_the_statistics_they_promise() -> None:
    lengths = Lengths(mean=100.0, sigma=0.5, most=10_000)
    draw = Random(1)
    drawn = [lengths.draw(draw, 10_000) for _ in range(20_000)]
    assert fmean(drawn) == pytest.approx(100, rel=0.02)
    assert median(drawn) == pytest.approx(100 * math.exp(-0.125), rel=0.02)
    arrivals = draw_arrivals(5000, rate=4.0, max_len=600)
    gaps = [after.seconds - before.seconds for before, after in itertools.pairwise(arrivals)]
    assert fmean(gaps) == pytest.approx(0.25, rel=0.05)
    assert fmean(gap**2 for gap in gaps) == pytest.approx(2 * 0.25**2, rel=0.15)  # as only exponential gaps have it
    assert all(one.prompt_len >= 1 and one.num_new >= 1 and one.prompt_len + one.num_new <= 600 for one in arrivals)
    assert {one.seconds for one in draw_arrivals(9, math.inf, 600)} == {0.0}
    assert draw_arrivals(9, 4.0, 600) == arrivals[:9] != draw_arrivals(9, 4.0, 600, seed=1)


def test_a_client_keeps_so_many_requests_open() -> None:
    engine = engine_of(num_tokens=40)
    arrivals = [Arrival(0.0, 3, 4 + index) for index in range(6)]
    client = Client(engine, at_once=2)
    most = 0
    step = engine.step

    def watched() -> Any:
        nonlocal most
        stats = engine.stats()
        most = max(most, stats.num_running + stats.num_waiting)
        return step()

    engine.step = watched  # type: ignore[method-assign]
    served = client.serve(arrivals, [[1, 2, 3]] * 6)
    assert most == 2
    assert [len(one.times) for one in served] == [4, 5, 6, 7, 8, 9]
    assert all(one.started <= one.times[0] and one.times == sorted(one.times) for one in served)
    assert [one.started for one in served] == sorted(one.started for one in served)


def test_serving_figures() -> None:
    served = [Served(0.0, [1.0, 1.5, 2.0]), Served(1.0, [4.0])]
    rows = {one.metric: (one.value, one.unit) for one in Serve(1.0).figures(served)}
    assert rows["requests"] == (0.5, "1/s")
    assert rows["output"] == (1.0, "tok/s")
    assert (rows["ttft mean"], rows["ttft p50"], rows["ttft p99"]) == ((2000, "ms"), (2000, "ms"), (2980, "ms"))
    assert (rows["itl mean"], rows["e2e p99"]) == ((500, "ms"), (2990, "ms"))
    assert [percentile([3.0, 1.0, 2.0], percent) for percent in (0, 50, 75, 100)] == [1.0, 2.0, 2.5, 3.0]


def test_first_tokens_come_one_to_a_request() -> None:
    llm = LLM(engine_of(num_tokens=10))
    prompts = random_prompts(llm, 3, 5)
    assert prompts == random_prompts(llm, 3, 5) != random_prompts(llm, 3, 5, seed=1)
    times = first_token_seconds(llm, prompts)
    assert len(times) == 3
    assert times == sorted(times)


def engine_of(num_tokens: int) -> Engine:
    return Engine.of(ScriptedModel([7] * num_tokens, 4), None, RuntimeSettings(num_pages=64))

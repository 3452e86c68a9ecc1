"""What `autodeploy bench` reports is complete; how fast anything is, no test says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autodeploy.bench import Load, time_load
from autodeploy.bench.ablation import Ablation, PassWorth, without_pass
from autodeploy.bench.measure import spread
from autodeploy.cli import main
from autodeploy.errors import InputError, RequestError
from autodeploy.job import Job
from autodeploy.optimizer import compile_graph
from autodeploy.progress import NullProgress
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.workpiece import trace_job
from tests.runtime.fakes import ScriptedModel

LOAD = ("--prompt-tokens", "6", "--new-tokens", "4", "--repeat", "2")
UNSERVABLE = {"gather_logit_rows", "page_attention"}


def bench(capsys: pytest.CaptureFixture[str], model: Path, *words: str) -> Any:
    code = main(["bench", str(model), *LOAD, "--json", *words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_every_load_has_a_row(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, model_folder, "--gpu", "cpu", "--load-format", "random", "--batch", "1", "--batch", "3")
    assert [row["batch_size"] for row in found["speeds"]] == [1, 3]
    for row in found["speeds"]:
        assert (row["prompt_tokens"], row["new_tokens"]) == (6, 4)
        low, high = row["step_spread_ms"]
        assert 0 < low <= row["step_ms"] <= high
        assert row["tokens_s"] == pytest.approx(1e3 * row["batch_size"] / row["step_ms"])
        assert row["prefill_tokens_s"] == pytest.approx(6e3 * row["batch_size"] / row["prefill_ms"])
    assert found["ablation"] is None


def test_an_artifact_is_timed_as_it_is(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["build", str(model_folder), "--gpu", "cpu", "--out", str(out)]) == 0
    capsys.readouterr()
    assert len(bench(capsys, out, "--batch", "2")["speeds"]) == 1
    assert main(["bench", str(out), *LOAD]) == 0
    assert "tok/s" in capsys.readouterr().out
    assert main(["bench", str(out), "--ablate"]) == 2
    assert "whose passes have run; give the model" in capsys.readouterr().err


@pytest.mark.slow
def test_every_pass_is_left_out_once(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(capsys, model_folder, "--gpu", "cpu", "--load-format", "random", "--batch", "2", "--ablate")
    ablation = found["ablation"]
    job = job_of(model_folder)
    assert [row["name"] for row in ablation["rows"]] == [name for name, _ in job.recipe.passes]
    assert all(row["reason"] == "it matched nothing" for row in ablation["rows"] if not row["matches"])
    rows = {row["name"]: row for row in ablation["rows"]}
    for name in UNSERVABLE:
        assert rows[name]["reason"].startswith("without it")
        assert rows[name]["worth_percent"] is None
    fused = rows["fuse_gate_up"]
    assert (fused["matches"], fused["reason"]) == (2, None)
    low, high = fused["spread_percent"]
    assert low <= fused["worth_percent"] <= high
    assert min(fused["step_ms"], fused["step_ms_without"]) > 0
    assert fused["nodes_without"] > ablation["nodes"]  # two projections and their product, which one operator computes


def test_an_ablation_is_a_table() -> None:
    timed = PassWorth(0, "fuse_qkv", 2, 90, 4.0, 5.0, 25.0, (20.0, 30.0))
    console = Console(width=80, record=True)
    console.print(Ablation(Load(1, 6, 4), 100, (timed, PassWorth(1, "page_attention", 2, reason="no cache"))))
    shown = console.export_text().splitlines()
    assert shown[2].split() == ["fuse_qkv", "2", "90", "5.00", "4.00", "+25.0", "%", "+20.0", "to", "+30.0"]
    assert shown[-1].rstrip() == "page_attention: no cache"


def test_a_graph_without_a_pass_lacks_what_it_does(model_folder: Path) -> None:
    job = job_of(model_folder)
    names = [name for name, _ in job.recipe.passes]
    traced, source = trace_job(job, "auto", NullProgress())
    for name, made in (("fuse_qkv", "qkv_proj"), ("fuse_gate_up", "gate_up_proj")):
        rest = without_pass(job.recipe, names.index(name))
        assert [one for one, _ in rest.passes] == [one for one in names if one != name]
        compiled = compile_graph(traced, rest, source, job.device)
        assert not [weight for weight in compiled.weights if made in weight]
        assert [weight for weight in compile_graph(traced, job.recipe, source, job.device).weights if made in weight]


def test_a_load_the_model_cannot_take_is_refused() -> None:
    engine = engine_of(RuntimeSettings(num_pages=64))
    assert time_load(engine, Load(2, 4, 6)).step > 0
    with pytest.raises(InputError, match="--new-tokens 2: the first answer ends before all have begun"):
        time_load(engine_of(RuntimeSettings(num_pages=64, max_batch_size=1)), Load(2, 4, 2))
    with pytest.raises(RequestError):
        time_load(engine, Load(1, 1 << 20, 2))


def test_half_of_the_figures_lie_in_the_spread() -> None:
    assert spread([5.0, 1.0, 2.0, 3.0, 4.0]) == (2.0, 4.0)
    assert spread([2.0]) == (2.0, 2.0)


def engine_of(settings: RuntimeSettings) -> Engine:
    return Engine.of(ScriptedModel([7] * 20, 4), None, settings)


def job_of(folder: Path) -> Job:
    return Job(str(folder), gpu="cpu", dtype="fp32", recipe="auto", workload="balanced", values={}, weights=True)

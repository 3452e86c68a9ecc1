"""What was found out of a model is found out once."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from autodeploy import job
from autodeploy.choosing import Recipe
from autodeploy.cost import Pace, StepShape, Tally
from autodeploy.hardware import Gpu
from autodeploy.job import Job, plan
from autodeploy.planning import Estimate, estimate_model, kept
from autodeploy.planning.figures import ModelFigures
from autodeploy.planning.surroundings import surroundings
from autodeploy.testing import tiny_config

QUANTIZED = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}


class Tracings:
    """Counts how often a model is traced; it is traced once in truth, for the tests of this file."""

    def __init__(self) -> None:
        self.count = 0
        self._figures: list[ModelFigures] = []

    def __call__(self, config: PretrainedConfig, gpu: Gpu, dtype: torch.dtype, recipe: Recipe) -> Estimate:
        self.count += 1
        if not self._figures:
            self._figures.append(estimate_model(config, gpu, dtype, recipe).figures)
        return Estimate(gpu, dtype, self._figures[0], Pace.of(gpu))


@pytest.fixture(scope="module")
def tracer() -> Tracings:
    return Tracings()


@pytest.fixture
def tracings(tracer: Tracings, monkeypatch: pytest.MonkeyPatch) -> Tracings:
    tracer.count = 0
    monkeypatch.setattr(job, "estimate_model", tracer)
    return tracer


@pytest.fixture
def model(tmp_path: Path) -> str:
    tiny_config("qwen2_moe", num_hidden_layers=2).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_model_is_traced_once_for_all_gpus_and_workloads(model: str, tracings: Tracings) -> None:
    found = plan(model, gpu="h200")
    assert tracings.count == 1
    assert plan(model, gpu="h200").as_dict() == found.as_dict()
    assert plan(model, gpu="l4", workload="throughput").outlook is not None
    assert tracings.count == 1


def test_what_changes_the_graph_is_traced_again(model: str, tracings: Tracings) -> None:
    plan(model, gpu="h200")
    plan(model, gpu="h200", dtype="fp16")
    plan(model, gpu="h200", quantize="fp8")
    plan(model, gpu="cpu", dtype="bf16")
    assert tracings.count == 4
    tiny_config("qwen2_moe", num_hidden_layers=3).save_pretrained(model)
    plan(model, gpu="h200")
    assert tracings.count == 5


def test_a_plan_rests_on_what_is_installed(model: str, tracings: Tracings, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(model, gpu="h200")
    monkeypatch.setattr(kept, "surroundings", lambda: "other versions")
    plan(model, gpu="h200")
    assert tracings.count == 2


def test_surroundings_are_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    nothing = surroundings.__wrapped__()
    package = tmp_path / "something-1.2.dist-info"
    package.mkdir()
    once = surroundings.__wrapped__()
    os.utime(package, ns=(0, 0))  # as when the same version is installed anew
    assert len({nothing, once, surroundings.__wrapped__()}) == 3


@pytest.mark.parametrize("file", ["some_plugin.py", "some_plugin/__init__.py", "some_plugin/deeper/code.py"])
def test_surroundings_are_the_code_of_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [EntryPoint("some", "some_plugin:plugin", "autodeploy.plugins")]
    monkeypatch.setattr("autodeploy.planning.surroundings.entry_points", lambda group: points)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("one = 1")
    importlib.invalidate_caches()
    before = surroundings.__wrapped__()
    assert surroundings.__wrapped__() == before
    (tmp_path / file).write_text("eleven = 11")
    assert surroundings.__wrapped__() != before


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": {}, "spec": {}, "areas": []}'])
def test_a_damaged_file_is_made_again(model: str, tracings: Tracings, text: str) -> None:
    found = plan(model, gpu="h200").as_dict()
    files = list(kept.plans_dir().iterdir())
    assert len(files) == 2
    for file in files:
        file.write_text(text)
    assert plan(model, gpu="h200").as_dict() == found
    assert tracings.count == 2
    assert all(file.read_text() != text for file in files)


def test_only_the_last_plans_are_kept(model: str, tracings: Tracings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 4)
    plan(model, gpu="h200")
    for file in kept.plans_dir().iterdir():
        os.utime(file, (1, 1))
    plan(model, gpu="h200", dtype="fp16")
    plan(str(_renamed(model)), gpu="h200")
    assert len(list(kept.plans_dir().iterdir())) == 4
    assert tracings.count == 3


def test_a_plan_is_made_where_nothing_can_be_kept(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "plans_dir", lambda: tmp_path / "config.json" / "no folder")
    assert plan(model, gpu="h200").outlook is not None


def test_how_a_checkpoint_is_quantized_is_kept_too(
    tmp_path: Path, tracings: Tracings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config("llama", quantization_config=QUANTIZED, dtype="float16").save_pretrained(tmp_path)
    first = plan(str(tmp_path), gpu="h200")
    monkeypatch.delattr(Job, "_read_facts")  # the second does without
    second = plan(str(tmp_path), gpu="h200")
    assert first.as_dict() == second.as_dict()
    assert "stored as" in {one.what for one in second.decisions}
    assert ("dtype", "float16") in {(one.what, one.value) for one in second.decisions}


def test_figures_are_those_that_are_counted_in_the_graph(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tallied = _estimate(model)  # and this is traced, with experts
    assert isinstance(tallied.model, Tally)
    monkeypatch.setattr(Tally, "of", lambda model: None)
    counted = _estimate(str(_renamed(model)))
    for shape in (StepShape(1, 1, 9), StepShape(1, 77, 80), StepShape(5, 1, 30), StepShape(4, 33, 33)):
        assert tallied.model.works(shape) == counted.model.works(shape)
        assert tallied.model.peak_bytes(shape) == counted.model.peak_bytes(shape)
        assert tallied.model.cost(shape) == counted.model.cost(shape)
    assert tallied.weight_bytes == counted.weight_bytes
    assert tallied.model.cache_bytes() == counted.model.cache_bytes()


@pytest.mark.slow
def test_a_second_plan_imports_no_transformers(model: str, tmp_path: Path) -> None:
    told = "import sys; from autodeploy.cli import main; main({words}); print('transformers' in sys.modules)"
    script = told.format(words=["explain", model, "--gpu", "h200", "--json"])
    environment = {**os.environ, "AUTODEPLOY_CACHE": str(tmp_path / "cache")}
    first, second = (
        subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
        for _ in range(2)
    )
    assert first.stdout.endswith("True\n")
    assert second.stdout == first.stdout.removesuffix("True\n") + "False\n"


def _estimate(model: str) -> Estimate:
    options: dict[str, Any] = {"dtype": "auto", "recipe": "auto", "workload": "balanced", "values": {}}
    found = Job(model, gpu="h200", **options, weights=False).estimate
    assert isinstance(found, Estimate)
    return found


def _renamed(model: str) -> Path:
    """The same model with another config, of which nothing is kept."""
    config = Path(model) / "config.json"
    config.write_text(config.read_text() + "\n")
    return Path(model)

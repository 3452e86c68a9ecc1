"""What is said of real models on real GPUs before anything is downloaded."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from autodeploy.job import plan
from autodeploy.plan import Plan
from tests.explain.models import MODELS

GPUS = ("t4", "l4", "rtx4090", "a100-80", "h200", "b200")
QUICK = (("gemma-3-1b", "t4"), ("qwen3-30b-a3b", "a100-80"), ("llama-3.1-405b", "h200"))


@pytest.fixture(autouse=True)
def _plan_anew(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all plans of a model rest on what tracing it once gave."""
    monkeypatch.setattr("autodeploy.planning.kept.plans_dir", lambda: tmp_path_factory.getbasetemp() / "plans")


def check(name: str, gpu: str, folder: Path) -> None:
    known = MODELS[name]
    model = known.save(folder)
    check_outlook(plan(model, gpu=gpu), known.billions)


def check_outlook(found: Plan, billions: float) -> None:
    """Nothing is promised that the memory or the rates of the device do not allow."""
    outlook = found.outlook
    assert outlook is not None
    assert outlook.card.num_parameters == pytest.approx(1e9 * billions, rel=0.03)
    fit = outlook.fit
    assert fit.num_devices * fit.capacity >= fit.weights
    assert outlook.rejected
    if not fit.fits:
        assert not outlook.speeds
        return
    used = fit.weights + fit.reserve + fit.workspace
    assert all(used + batch * context * fit.cache_per_token <= fit.capacity for context, batch in outlook.batches)
    batch = next(one.value for one in reversed(found.choices) if one.key == "runtime.max_batch_size")
    assert all(0 <= one <= batch for _, one in outlook.batches)
    assert outlook.speeds
    assert all(math.isfinite(one.milliseconds) and one.milliseconds > 0 for one in outlook.speeds)
    assert all(0 < one.floor_fraction < 1 for one in outlook.speeds if one.floor_fraction is not None)


@pytest.mark.parametrize(("name", "gpu"), QUICK)
def test_some_models_on_some_gpus(name: str, gpu: str, tmp_path: Path) -> None:
    check(name, gpu, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_on_every_gpu(name: str, gpu: str, tmp_path: Path) -> None:
    check(name, gpu, tmp_path)

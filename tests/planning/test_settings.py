"""Workloads aim at different things, and get different settings for the same model on the same GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodeploy.errors import RecipeError
from autodeploy.job import plan
from autodeploy.layers import COST_MODEL
from autodeploy.plan import Plan
from tests.explain.models import MODELS

KEYS = ("max_batch_size", "prefill_budget", "max_num_tokens", "graph_batch_sizes")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return MODELS["llama-3.1-8b"].save(tmp_path_factory.mktemp("llama"))


def value(found: Plan, key: str) -> object:
    return next(one.value for one in reversed(found.choices) if one.key == f"runtime.{key}")


def reason(found: Plan, key: str) -> str:
    return next(one.origin.reason for one in reversed(found.choices) if one.key == f"runtime.{key}")


def test_workloads_differ_and_say_why(model: str) -> None:
    plans = {name: plan(model, gpu="h200", workload=name) for name in ("latency", "balanced", "throughput")}
    batches, prompts, tokens = ([value(one, key) for one in plans.values()] for key in KEYS[:3])
    assert batches == sorted(set(batches))  # type: ignore[type-var]
    assert prompts == sorted(set(prompts))  # type: ignore[type-var]
    assert tokens == [8192, 8192, 8192], "what matters where nobody decodes is the prompt alone"
    assert "times that of one request" in reason(plans["balanced"], "max_batch_size")
    assert value(plans["throughput"], "max_batch_size") == 1024
    assert "times a decode step" in reason(plans["latency"], "prefill_budget")
    assert "where nobody decodes" in reason(plans["latency"], "max_num_tokens")
    sizes = [value(one, "graph_batch_sizes") for one in plans.values()]
    tuned = [next(one.value for one in found.choices if "max_rows" in one.key) for found in plans.values()]
    assert tuned == tokens
    assert all(isinstance(one, tuple) and one[-1] == batch for one, batch in zip(sizes, batches, strict=True))
    throughput = set(sizes[-1])  # type: ignore[call-overload]
    powers = {2**power for power in range(11)}
    assert powers < throughput, "batches that people run are never padded"
    between = f"powers of two and {len(throughput - powers)} between: padding"
    assert reason(plans["throughput"], "graph_batch_sizes").startswith(between)


def test_the_fastest_scheme_follows_from_the_workload_and_the_gpu(model: str) -> None:
    def chosen(gpu: str, workload: str) -> tuple[str, str]:
        found = plan(model, gpu=gpu, workload=workload, quantize="fastest")
        (decision,) = [one for one in found.decisions if one.what == "quantize"]
        scheme = next(one.value for one in found.choices if one.key == "passes.mark_precision.scheme")
        assert scheme == decision.value
        return decision.value, decision.reason

    assert chosen("l4", "latency")[0] == "int4"
    scheme, reason = chosen("h200", "throughput")
    assert scheme == "fp8"
    assert "and 8 of prompts would take" in reason
    assert "int4" in reason
    assert chosen("a100", "throughput")[0] == "none"  # it has no fp8, and weights that are widened are slower there


def test_a_smaller_gpu_gets_smaller_steps(model: str) -> None:
    large, small = (plan(model, gpu=gpu) for gpu in ("h200", "l4"))
    assert value(small, "max_batch_size") < value(large, "max_batch_size")  # type: ignore[operator]
    assert value(small, "max_num_tokens") <= value(large, "max_num_tokens")  # type: ignore[operator]
    assert "the cache holds" in reason(small, "max_batch_size")


def test_what_is_asked_for_wins_over_the_cost_model(model: str) -> None:
    found = plan(model, gpu="h200", set={"runtime.max_batch_size": 7})
    (origin,) = {one.origin.layer for one in found.choices if one.key == "runtime.max_batch_size"}
    assert (value(found, "max_batch_size"), origin) == (7, "--set")
    assert {one.origin.layer for one in found.choices if one.key == "runtime.max_num_tokens"} == {COST_MODEL}
    assert value(found, "graph_batch_sizes") == (1, 2, 4, 7)  # of the batch that was asked for


def test_an_aim_can_be_changed(model: str) -> None:
    found = plan(model, gpu="h200", set={"plan.decode_slowdown": 1.5})
    assert value(found, "max_batch_size") == 32
    with pytest.raises(
        RecipeError, match=r"--set plan.decode_slowdwn=2: unknown key .*; did you mean 'decode_slowdown'"
    ):
        plan(model, gpu="h200", set={"plan.decode_slowdwn": 2})


def test_a_made_up_gpu_is_planned_from_its_file(model: str, tmp_path: Path) -> None:
    file = tmp_path / "dream.yaml"
    file.write_text(
        "name: dream\ntitle: Dream\ncompute_capability: [9, 0]\nmemory_gb: 500\nbandwidth_gb_s: 20000\n"
        "tflops: {fp32: 100, bf16: 4000, fp8: 8000}\nsource: imagination\n"
    )
    fast, known = (plan(model, gpu=gpu).outlook for gpu in (str(file), "h200"))
    assert fast is not None
    assert known is not None
    assert fast.fit.cache_tokens > 3 * known.fit.cache_tokens
    assert fast.speeds[0].milliseconds < known.speeds[0].milliseconds / 2
    assert "the datasheet of Dream" in fast.basis

"""A few layers tell what all of them cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autodeploy.choosing import resolve_settings
from autodeploy.cost import Cost, StepShape
from autodeploy.cost.sample import Sample, count_model, sample_layers
from autodeploy.hardware import GpuChoice, load_gpu
from autodeploy.planning import Estimate, estimate_model
from autodeploy.planning import tracing as module
from autodeploy.testing import tiny_config

SHAPES = (StepShape(3, 1, 50), StepShape(1, 20, 20))
MIXED = ["sliding_attention", "sliding_attention", "full_attention"] * 2


def estimate(model_type: str, quantize: str | None = None, **options: object) -> Estimate:
    config, gpu = tiny_config(model_type, **options), load_gpu("h200")
    chosen: dict[str, Any] = {"recipe": "auto", "workload": "balanced", "values": {}, "quantize": quantize}
    recipe = resolve_settings(config, GpuChoice(gpu, ""), **chosen)
    return estimate_model(config, gpu, torch.bfloat16, recipe)


@pytest.mark.parametrize(
    ("model_type", "options", "traced"),
    [
        ("llama", {"num_hidden_layers": 5, "tie_word_embeddings": True}, 3),
        ("llama", {"num_hidden_layers": 5, "quantize": "fp8"}, 3),
        ("gemma3_text", {"num_hidden_layers": 6, "layer_types": MIXED, "sliding_window": 8}, 4),
        pytest.param("qwen2_moe", {"num_hidden_layers": 5, "mlp_only_layers": [0]}, 3, marks=pytest.mark.slow),
        pytest.param(
            "deepseek_v3",
            {"num_hidden_layers": 6, "first_k_dense_replace": 2, "qk_rope_head_dim": 16},
            4,
            marks=pytest.mark.slow,
        ),  # its code counts layers
    ],
)
def test_a_sample_costs_what_the_whole_does(
    model_type: str, options: dict[str, Any], traced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(model_type, **{key: value for key, value in options.items() if key != "quantize"})
    assert sample_layers(config, count_model(config)).config.num_hidden_layers == traced
    short = estimate(model_type, **options)
    monkeypatch.setattr(module, "sample_layers", lambda config, counted: Sample(config, len(counted.layers)))
    whole = estimate(model_type, **options)
    for shape in SHAPES:
        assert near(short.model.cost(shape), whole.model.cost(shape))
        # what a layer's first norm adds depends on the layer before, which may be of another kind in the sample
        assert short.step(shape).seconds == pytest.approx(whole.step(shape).seconds, rel=1e-5)
        assert short.model.peak_bytes(shape) == pytest.approx(whole.model.peak_bytes(shape), rel=0.02)
    assert short.weight_bytes == pytest.approx(whole.weight_bytes)
    assert short.model.cache_bytes() == pytest.approx(whole.model.cache_bytes())


def near(left: Cost, right: Cost) -> bool:
    return pytest.approx((left.num_bytes, left.num_flops)) == (right.num_bytes, right.num_flops)


def test_every_kind_of_layer_is_counted() -> None:
    config = tiny_config("gemma3_text", num_hidden_layers=6, layer_types=MIXED)
    counted = count_model(config)
    assert len(counted.layers) == 6
    assert len(set(counted.layers)) == 2
    sample = sample_layers(config, counted)
    assert sample.config.layer_types == [*MIXED[:3], MIXED[-1]]
    assert sample.weights == (1.0, 3.0, 1.0, 1.0)
    assert config.num_hidden_layers == 6


def test_parameters_are_counted_once_where_they_are_tied() -> None:
    tied, untied = (count_model(tiny_config("llama", tie_word_embeddings=tie)).num_parameters for tie in (True, False))
    assert untied - tied == 96 * 64

"""What is planned is what a build takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import autodeploy as ad
from autodeploy.cost import CostModel, Fit
from autodeploy.job import plan
from autodeploy.testing import tiny_config

QUICK = (("llama", {"tie_word_embeddings": True}, None), ("llama", {"tie_word_embeddings": False}, None))
OTHERS: tuple[tuple[str, dict[str, Any], str | None], ...] = (
    ("llama", {}, "int8"),
    ("qwen3_moe", {}, None),
    ("gpt_oss", {"num_hidden_layers": 6}, None),
    ("falcon", {}, None),
    ("gpt_neox", {}, None),
    ("gpt2", {}, None),
)


@pytest.mark.parametrize(
    ("model_type", "options", "quantize"), [*QUICK, *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS)]
)
def test_the_weights_and_the_cache_of_a_build_are_those_of_its_plan(
    model_type: str, options: dict[str, Any], quantize: str | None, tmp_path: Path
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    tiny_config(model_type, **{"num_hidden_layers": 5, **options}).save_pretrained(model)
    asked: dict[str, Any] = {"gpu": "cpu", "dtype": "bf16", "quantize": quantize}
    planned = plan(str(model), **asked).outlook
    assert planned is not None
    built = ad.build(str(model), out=out, load_format="random", **asked)
    stored = {one.data_ptr(): one.nbytes for one in built.read_weights().values()}
    assert planned.fit.weights == sum(stored.values())
    caches = CostModel.of(built).spec.caches
    assert planned.fit.cache_per_token == sum(one.bytes_of(page_size=1) for one in caches)


def test_the_cache_gets_what_the_rest_leaves() -> None:
    fit = Fit(capacity=100.0, weights=40.0, reserve=10.0, workspace=10.0, cache_per_token=4.0)
    assert (fit.cache, fit.cache_tokens, fit.max_batch(3), fit.num_devices) == (40.0, 10, 3, 1)


def test_a_model_too_large_says_how_many_devices_its_weights_need() -> None:
    fit = Fit(capacity=100.0, weights=250.0, reserve=10.0, workspace=10.0, cache_per_token=4.0)
    assert not fit.fits
    assert (fit.cache_tokens, fit.num_devices) == (0, 3)

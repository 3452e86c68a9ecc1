"""What is planned is what a build takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import autodeploy as ad
from autodeploy.builder import plan
from autodeploy.cost import CostModel, Fit
from autodeploy.testing import tiny_config


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_and_the_cache_of_a_build_are_those_of_its_plan(tmp_path: Path, tied: bool) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    tiny_config("llama", tie_word_embeddings=tied, num_hidden_layers=4).save_pretrained(model)
    options: dict[str, Any] = {"gpu": "cpu", "dtype": "bf16"}
    planned = plan(str(model), **options).outlook
    assert planned is not None
    built = ad.build(str(model), out=out, load_format="random", **options)
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

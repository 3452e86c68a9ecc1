"""What a device cannot do is refused or replaced, in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodeploy.errors import UnsupportedError
from autodeploy.hardware import load_gpu
from autodeploy.job import plan
from autodeploy.planning.formats import why_not
from autodeploy.testing import tiny_config


@pytest.fixture
def model(tmp_path: Path) -> str:
    tiny_config("llama").save_pretrained(tmp_path)
    return str(tmp_path)


def test_fp8_on_an_a100_is_refused_with_what_runs_there(model: str) -> None:
    sentence = "--quantize fp8: a100-80 .* has no fp8 units, which came with 8.9; int8 and int4 run there"
    with pytest.raises(UnsupportedError, match=sentence):
        plan(model, gpu="a100", quantize="fp8")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("passes.mark_precision.scheme", "fp8"),
        ("passes.mark_precision.head", "fp8"),
        ("passes.mark_precision.rules", [{"match": "*down*", "scheme": "nvfp4"}]),
        ("passes.mark_precision.rules", [{"scheme": {"weights": "fp8", "scope": "tensor"}}]),
        ("passes.quantize_cache.format", "fp8"),
    ],
)
def test_what_a_recipe_asks_for_is_refused_alike(model: str, key: str, value: object) -> None:
    with pytest.raises(UnsupportedError, match=r"a100-80 .* has no fp8 units") as error:
        plan(model, gpu="a100", set={key: value})
    assert key.rpartition(".")[2] in str(error.value)
    plan(model, gpu="l4", set={key: value})


@pytest.mark.parametrize("gpu", ["v100", "t4"])
def test_bf16_where_there_is_none_is_refused_or_replaced(model: str, gpu: str) -> None:
    with pytest.raises(UnsupportedError, match=f"--dtype bf16: {gpu} has no bf16, .*; use fp16"):
        plan(model, gpu=gpu, dtype="bf16")
    (chosen,) = [one for one in plan(model, gpu=gpu).decisions if one.what == "dtype"]
    assert (chosen.value, chosen.reason) == ("float16", f"{gpu} has no bf16")


@pytest.mark.parametrize(
    ("gpu", "able"),
    [
        ("v100", {"int8", "int4"}),
        ("a100", {"int8", "int4", "int8_dynamic"}),
        ("l4", {"fp8", "int8", "int4", "int8_dynamic", "nvfp4"}),
        ("cpu", {"fp8", "int8", "int4", "int8_dynamic", "nvfp4"}),
    ],
)
def test_the_schemes_that_a_device_can_compute_in(gpu: str, able: set[str]) -> None:
    names = ("fp8", "int8", "int4", "int8_dynamic", "nvfp4")
    assert {name for name in names if why_not(load_gpu(gpu), name) is None} == able


def test_what_a_gpu_cannot_do_is_listed_among_what_was_not_chosen(model: str) -> None:
    outlook = plan(model, gpu="a100").outlook
    assert outlook is not None
    told = {one.what: one for one in outlook.rejected}
    assert not told["--quantize fp8"].possible
    assert told["--quantize int4"].possible
    assert "only when asked for" in told["--quantize int4"].reason

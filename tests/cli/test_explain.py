from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from autodeploy.explanation import explain_pattern
from autodeploy.job import plan
from tests.cli.conftest import FakeBuilder, Run
from tests.families import config_of

Command = Callable[..., Run]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a config and no weights."""
    folder = tmp_path_factory.mktemp("stablelm")
    config_of("stablelm", {"num_hidden_layers": 3}).save_pretrained(folder)
    return str(folder)


def test_a_pattern_that_matches_is_shown_with_its_modules_and_lines(
    run: Command, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("explain", model, "--pattern", "layer_norm")
    assert result.code == 0
    assert "layer_norm, tried by canonicalize_norms" in result.out
    assert "Matched 7 times" in result.out
    (row,) = [line for line in result.out.splitlines() if "model.layers.*.input_layernorm" in line]
    assert " 3 " in row
    assert "Nothing else looked like it." in result.out
    assert max(map(len, result.out.splitlines())) <= 80


class OddNorm(LlamaRMSNorm):
    """A norm that no pattern knows, since it takes the absolute value of the square."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        wide = hidden_states.to(torch.float32)
        variance = wide.pow(2).abs().mean(-1, keepdim=True)
        wide = wide * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * wide.to(hidden_states.dtype)


def test_a_pattern_that_misses_says_where_and_why(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_of("llama", {"num_hidden_layers": 3}).save_pretrained(tmp_path)
    monkeypatch.setattr(LlamaRMSNorm, "forward", OddNorm.forward)
    result = run("explain", str(tmp_path), "--pattern", "rms_norm")
    assert result.code == 0
    assert "It matched nowhere." in result.out
    assert "Looked right and did not match 7 times" in result.out
    assert "• model.layers.*.input_layernorm, 3 times" in result.out
    assert "stopped at abs_1: expected aten.pow.Tensor_Scalar, found aten.abs.default" in result.out
    assert "test_explain.py:" in result.out
    assert "`variance = wide.pow(2).abs().mean(-1, keepdim=True)`" in result.out
    told = explain_pattern(str(tmp_path), "rms_norm")
    assert len(told.misses) == 7
    assert {"mean", "rsqrt"} <= set(told.misses[0].matched)
    assert told.passes == ("canonicalize_norms",)


def test_json_is_one_object_with_every_match_and_miss(run: Command, model: str) -> None:
    data = json.loads(run("explain", model, "--pattern", "layer_norm", "--json").out)
    assert data["pattern"] == "layer_norm"
    assert len(data["matches"]) == 7
    assert data["matches"][0]["module"] == "model.layers.0.input_layernorm"
    assert data["misses"] == []


def test_an_unknown_pattern_names_the_nearest(run: Command, model: str) -> None:
    result = run("explain", model, "--pattern", "layr_norm")
    assert result.code == 2
    assert result.err == "autodeploy: --pattern layr_norm: there is no such pattern; did you mean 'layer_norm'?\n"


def test_without_a_pattern_the_plan_and_the_recipe_are_shown(
    run: Command, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("explain", model, "--gpu", "cpu", "--set", "runtime.page_size=8", "--max-batch", "4")
    assert result.code == 0
    assert "--gpu cpu" in result.out
    rows = {words[0]: words[1:] for words in map(str.split, result.out.splitlines()) if words}
    assert rows["runtime.page_size"][:2] == ["8", "--set"]
    assert rows["runtime.max_batch_size"][:2] == ["4", "--set"]  # what "Not chosen" offers can be asked for
    assert rows["passes.fuse_qkv"][:2] == ["on", "default"]
    assert re.fullmatch(r"default\.yaml:\d\d", rows["passes.fuse_qkv"][2])  # at 80 columns too
    assert "asked for" not in result.out
    assert "what every decoder gets" in result.out
    keys = [one["key"] for one in json.loads(run("explain", model, "--json").out)["recipe"]]
    assert "passes.fuse_qkv" in keys


def test_a_plan_alone_needs_no_compiler(run: Command, builder: FakeBuilder) -> None:
    assert "no recipe knows it" in run("explain", "org/name").out
    assert builder.calls[0][0] == "org/name"


def test_the_decisions_of_a_build_are_short_and_written_as_set_takes_them(model: str) -> None:
    told = {one.what: one for one in plan(model, gpu="cpu").decisions}
    assert told["passes"].value.isdigit()
    assert told["passes"].reason == "from default; `autodeploy explain` lists them"
    assert told["runtime.prefix_reuse"].value == "on"

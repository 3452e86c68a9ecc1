"""`autodeploy inspect` of a model that is a config, and of an artifact."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import autodeploy as ad
from autodeploy.testing import tiny_config
from tests.cli.conftest import Run

Command = Callable[..., Run]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_config("llama").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def artifact(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("built") / "artifact"
    ad.build(model, gpu="cpu", out=out, load_format="random")
    return str(out)


def test_a_model_needs_no_weights(run: Command, model: str) -> None:
    shown = run("inspect", model, "--gpu", "cpu")
    assert shown.code == 0
    assert "rope_paged_attention" in shown.out
    assert "fuse_qkv" in shown.out
    assert "\x1b" not in shown.out


def test_a_pass_is_found_by_its_number_and_its_name(run: Command, model: str) -> None:
    passes = json.loads(run("inspect", model, "--gpu", "cpu", "--json").out)["history"]
    number = next(index for index, one in enumerate(passes) if one["name"] == "fuse_qkv")
    shown = run("inspect", model, "--gpu", "cpu", "--pass", str(number)).out
    assert shown == run("inspect", model, "--gpu", "cpu", "--pass", "fuse_qkv").out
    assert "qkv_proj.weight" in shown


def test_a_page_is_written(run: Command, model: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    shown = run("inspect", model, "--gpu", "cpu", "--html", str(file))
    assert (shown.code, shown.out) == (0, "")
    assert str(file) in shown.err
    assert file.read_text().startswith("<!DOCTYPE html>")


def test_an_artifact_is_read_back(run: Command, artifact: str) -> None:
    data = json.loads(run("inspect", artifact, "--json").out)
    assert data["operators"]["main"]["autodeploy.rope_paged_attention.default"] == 2
    assert [one["name"] for one in data["history"]][-1] == "choose_kernels"
    assert "layers 0" in run("inspect", artifact).out or "layer 0" in run("inspect", artifact).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--pass", "fuse_qvk"), "did you mean 'fuse_qkv'"),
        (("--pass", "99"), "they are 0 to"),
        (("--layer", "7"), "they are 0 to 1"),
        (("--op", "linaer"), "did you mean 'linear'"),
        (("--op", "linear", "--layer", "0"), "give one of them"),
        (("--html", "/nowhere/page.html"), "there is no folder /nowhere"),
        (("--quantize", "auto"), "--quantize auto: the search measures weights, which inspect does not read"),
    ],
)
def test_a_mistake_is_one_sentence(run: Command, model: str, words: tuple[str, ...], said: str) -> None:
    refused = run("inspect", model, "--gpu", "cpu", *words)
    assert refused.code == 2
    assert said in refused.err
    assert "Traceback" not in refused.err


def test_an_artifact_keeps_no_graphs_between_passes(run: Command, artifact: str) -> None:
    refused = run("inspect", artifact, "--pass", "0")
    assert refused.code == 2
    assert "inspect its model" in refused.err

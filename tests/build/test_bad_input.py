"""What a user can get wrong: exit code 2, and one sentence that names the thing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autodeploy.artifact import Artifact
from autodeploy.cli import main

Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must exit with 2; its error, which must be one line and no traceback."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return " ".join(error.split())

    return run


@pytest.fixture
def artifact(built: Artifact, tmp_path: Path) -> Path:
    """A build that a test may damage."""
    return shutil.copytree(built.path, tmp_path / "artifact")


def test_a_missing_folder(fails: Fails, tmp_path: Path) -> None:
    assert "no-such-model" in fails(tmp_path / "no-such-model", "--gpu", "cpu")


def test_a_folder_that_is_no_model(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json" in fails(tmp_path / "empty", "--gpu", "cpu")


def test_an_unknown_model(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nobody/nothing" in fails("nobody/nothing", "--gpu", "cpu")


def test_an_unknown_architecture(fails: Fails, model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    assert "lama" in fails(model_folder, "--gpu", "cpu", "--out", model_folder.parent / "out")


def test_a_truncated_checkpoint(fails: Fails, model_folder: Path) -> None:
    file = model_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "model.safetensors" in fails(model_folder, "--gpu", "cpu", "--out", model_folder.parent / "out")
    assert not (model_folder.parent / "out").exists()


def test_a_weight_of_the_wrong_shape(fails: Fails, model_folder: Path) -> None:
    file = model_folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, file)
    error = fails(model_folder, "--gpu", "cpu", "--out", model_folder.parent / "out")
    assert "model.norm.weight" in error
    assert "7" in error
    assert "32" in error


def test_an_unknown_gpu(fails: Fails, model_folder: Path) -> None:
    assert "'h100'" in fails(model_folder, "--gpu", "h10")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("runtime.page_sise=8", "page_size"),
        ("runtime.page_size=many", "page_size"),
        ("passes.fuse_qkw=off", "fuse_qkv"),
        ("passes.fuse_gate_up.rows=1", "rows"),
        ("nonsense", "nonsense"),
    ],
)
def test_a_bad_setting(fails: Fails, model_folder: Path, value: str, named: str) -> None:
    assert named in fails(model_folder, "--gpu", "cpu", "--set", value, "--out", model_folder.parent / "out")


def test_an_output_folder_that_cannot_be_made(fails: Fails, model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert str(file) in fails(model_folder, "--gpu", "cpu", "--out", file / "out")


def test_an_output_folder_that_holds_something_else(fails: Fails, model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("Dear diary")
    assert "mine" in fails(model_folder, "--gpu", "cpu", "--out", tmp_path / "mine")
    assert os.listdir(tmp_path / "mine") == ["diary.txt"]


@pytest.mark.parametrize("name", ["graph.json", "config.json", "recipe.json"])
def test_an_edited_artifact(fails: Fails, artifact: Path, name: str) -> None:
    file = artifact / name
    file.write_text(file.read_text() + " ")
    assert name in fails("generate", artifact, "--prompt", "x")


def test_a_pickle_in_an_artifact(fails: Fails, artifact: Path) -> None:
    (artifact / "extra.pkl").write_bytes(b"\x80\x04.")
    assert "extra.pkl" in fails("generate", artifact, "--prompt", "x")


def test_text_for_a_model_without_a_tokenizer(fails: Fails, artifact: Path) -> None:
    assert "tokenizer" in fails("generate", artifact, "--prompt", "x")

"""Artifacts to the Hub and back, against a Hub of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import autodeploy as ad
from autodeploy.artifact import Artifact, load
from autodeploy.cli import main
from autodeploy.errors import ArtifactError, ModelError
from autodeploy.hub.pull import pull
from autodeploy.hub.push import card, push
from autodeploy.inspect.load import find
from autodeploy.testing import tiny_model


def tiny(folder: Path) -> Path:
    tiny_model("llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("push")
    return ad.build(str(tiny(folder / "tiny")), out=folder / "artifact", gpu="cpu", dtype="fp32")


@pytest.fixture(autouse=True)
def token(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")


def test_there_and_back(hub: Any, artifact: Artifact) -> None:
    pushed = push(artifact, "org/tiny-program")
    assert (pushed.repo_id, pushed.revision) == ("org/tiny-program", "a" * 40)
    folder = pull("org/tiny-program")
    assert folder is not None
    assert load(folder).manifest == artifact.manifest
    greedy = ad.SamplingParams(temperature=0, max_tokens=8)
    (ours,), (theirs,) = (ad.LLM(model).generate([[1, 2, 3]], greedy) for model in (artifact.path, "org/tiny-program"))
    assert ours.outputs[0].token_ids == theirs.outputs[0].token_ids


def test_what_is_there_can_be_looked_at(hub: Any, artifact: Artifact) -> None:
    push(artifact, "org/tiny-program")
    found = find("org/tiny-program")
    assert found.artifact is not None
    assert found.artifact.manifest == artifact.manifest


def test_a_push_replaces_what_an_earlier_one_left(hub: Any, artifact: Artifact) -> None:
    hub.add("org/tiny-program", {"manifest.json": b"{}", "weights-00009.safetensors": b"old", ".gitattributes": b""})
    push(artifact, "org/tiny-program")
    files = set(hub.files["org/tiny-program"]["a" * 40])
    assert files == {"manifest.json", *artifact.manifest.files, "README.md", ".gitattributes"}


def test_a_repository_that_holds_something_else_is_left_alone(hub: Any, artifact: Artifact) -> None:
    hub.add("org/model", {"config.json": b"{}", "README.md": b"theirs"})
    with pytest.raises(ModelError, match=r"org/model holds 'config\.json' and no artifact"):
        push(artifact, "org/model")
    assert set(hub.files["org/model"]["a" * 40]) == {"config.json", "README.md"}


def test_a_damaged_artifact_stays_here(hub: Any, artifact: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in artifact.path.iterdir():
        content = bytearray(file.read_bytes())
        if file.suffix == ".safetensors":
            content[-1] ^= 1
        (copy / file.name).write_bytes(content)
    with pytest.raises(ArtifactError, match="safetensors is damaged"):
        push(load(copy), "org/damaged")
    assert "org/damaged" not in hub.files


def test_needs_an_account(hub: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ModelError, match="log in with `hf auth login` or HF_TOKEN") as caught:
        push(artifact, "org/tiny-program")
    assert "\n" not in str(caught.value)


def test_an_artifact_is_no_model_to_build(hub: Any, artifact: Artifact) -> None:
    push(artifact, "org/tiny-program")
    with pytest.raises(ModelError, match="org/tiny-program is an artifact, built already: autodeploy serve"):
        ad.build("org/tiny-program", out="nowhere", gpu="cpu")


def test_a_model_and_a_path_are_not_pulled(hub: Any, tmp_path: Path) -> None:
    hub.add("org/tiny", {"config.json": b"{}"})
    assert pull("org/tiny") is None
    assert pull(str(tmp_path)) is None
    assert pull("pkg:anything") is None


def test_the_card_names_a_hub_model_and_no_path(artifact: Artifact) -> None:
    assert str(artifact.path.parent) not in card(artifact, "org/program")
    origin = {"reference": "org/tiny@v2", "origin": "hub", "revision": "b" * 40}
    details = {**artifact.manifest.details, "model": origin}
    from_hub = Artifact(artifact.path, artifact.manifest.model_copy(update={"details": details}))
    assert "base_model: org/tiny\n" in card(from_hub, "org/program")
    assert f"from org/tiny at {'b' * 40}" in card(from_hub, "org/program")


def test_the_command(hub: Any, artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(artifact.path), "org/tiny-program", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"repo_id": "org/tiny-program", "url": f"{hub.url}/org/tiny-program", "revision": "a" * 40}
    assert main(["push", "nowhere", "org/tiny-program"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err

"""The real Hub client against a Hub of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest

from autodeploy.errors import InputError, ModelError
from autodeploy.hub import resolve
from autodeploy.progress import NullProgress

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b'{"a": 1}',
    "chat_template.jinja": b"hello",
    "pytorch_model.bin": b"a pickle",
    "consolidated.safetensors": b"the same weights again",
    "onnx/model.safetensors": b"another format",
    "README.md": b"# tiny",
}


def test_downloads_what_is_needed(hub: Any) -> None:
    hub.add("org/tiny", FILES)
    files = resolve("org/tiny")
    names = sorted(path.name for path in files.folder.rglob("*"))
    assert names == ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert (files.folder / "model.safetensors").read_bytes() == b"weights"
    assert (files.origin, files.revision) == ("hub", "a" * 40)


def test_without_weights(hub: Any) -> None:
    hub.add("org/tiny", FILES)
    assert not (resolve("org/tiny", weights=False).folder / "model.safetensors").exists()
    assert (resolve("org/tiny").folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("reference", "revision"), [("org/tiny@v2", None), ("org/tiny", "v2"), ("org/tiny@main", "v2")]
)
def test_a_revision(hub: Any, reference: str, revision: str | None) -> None:
    hub.add("org/tiny", FILES)
    hub.add("org/tiny", FILES | {"config.json": b'{"two": 2}'}, revision="v2")
    files = resolve(reference, revision=revision)
    assert files.revision == "b" * 40
    assert (files.folder / "config.json").read_bytes() == b'{"two": 2}'


def test_a_second_time_only_asks_for_the_commit(hub: Any) -> None:
    hub.add("org/tiny", FILES)
    resolve("org/tiny")
    hub.requests.clear()
    resolve("org/tiny")
    assert not [path for path in hub.requests if "/resolve/" in path]


def test_offline_uses_the_cache(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.add("org/tiny", FILES)
    folder = resolve("org/tiny").folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert resolve("org/tiny").folder == folder
    assert hub.requests == []
    refuses("org/other", r"HF_HUB_OFFLINE is set and org/other is not .*in the cache .*hub")


def test_a_gated_model(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/gated", FILES)
    hub.gated.add("org/gated")
    refuses("org/gated", rf"is gated: accept its licence at {hub.url}/org/gated and log in with `hf auth login`")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert resolve("org/gated").revision == "a" * 40


def test_a_model_that_does_not_exist(hub: Any) -> None:
    refuses("org/nothing", "org/nothing is not a model on .* that you may see")


@pytest.mark.parametrize("asked", ["org/tinny", "orgg/tiny-llama", "Org/Tiny-Lama"])
def test_a_name_that_is_nearly_right(hub: Any, asked: str) -> None:
    hub.add("org/tiny", FILES)
    hub.add("org/tiny-llama", FILES)
    hub.add("other/thing", FILES)
    expected = "org/tiny" if asked == "org/tinny" else "org/tiny-llama"
    refuses(asked, rf"did you mean {expected!r}\? If it is private, log in")


def test_a_name_that_is_nearly_a_folder_here(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("models/llama-3.1-8b")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    refuses("models/llama-3.1-8", r"is not a model on .*; did you mean the folder 'models/llama-3\.1-8b'\?")
    monkeypatch.chdir("models")
    refuses("lama-3.1-8b", r"; did you mean the folder 'llama-3\.1-8b'\?")
    refuses("org/nothing", r"If it is private, log in with .* or HF_TOKEN$")


def test_a_disk_that_is_too_small(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/tiny", FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(InputError, match=r"0\.0 GB are to be downloaded, and .* has 0\.0 GB left"):
        resolve("org/tiny")
    assert not [path for path in hub.requests if path.endswith("safetensors") and hub.requests.count(path) > 1]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what it keeps at a time
    weights = bytes(range(256)) * 100
    hub.add("org/tiny", FILES | {"model.safetensors": weights})
    hub.cut["model.safetensors"] = 10_000
    assert (resolve("org/tiny").folder / "model.safetensors").read_bytes() == weights
    assert "model.safetensors from 10000" in hub.requests


def test_what_a_download_that_was_stopped_has_left_is_not_fetched_again(hub: Any) -> None:
    parts = {f"model-{number}-of-3.safetensors": bytes([number]) * 9 for number in (1, 2, 3)}
    hub.add("org/tiny", FILES | parts)
    folder = resolve("org/tiny").folder
    (folder / "model-2-of-3.safetensors").resolve().unlink()
    (folder / "model-2-of-3.safetensors").unlink()
    hub.requests.clear()
    assert (resolve("org/tiny").folder / "model-2-of-3.safetensors").read_bytes() == bytes([2]) * 9
    assert {path.rpartition("/")[2] for path in hub.requests if "/resolve/" in path} == {"model-2-of-3.safetensors"}


def test_files_come_side_by_side(hub: Any) -> None:
    hub.add("org/tiny", FILES | {f"model-{number}-of-2.safetensors": bytes([number]) for number in (1, 2)})
    hub.meeting = Barrier(3)  # each of the three waits for the others
    assert len(list(resolve("org/tiny").folder.glob("*.safetensors"))) == 3


def test_the_settings_of_the_environment_are_those_of_the_client(hub: Any, tmp_path: Path) -> None:
    """A mirror, a token, a place for the cache, and then nothing but that."""
    hub.add("org/gated", FILES)
    hub.gated.add("org/gated")
    told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_right"}
    command = "from autodeploy.hub import resolve; print(resolve('org/gated').folder)"

    def folder_under(**variables: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", command], env={**kept, **variables}, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    folder = folder_under(**told)
    assert Path(folder).is_relative_to(tmp_path / "home/hub")
    hub.requests.clear()
    assert folder_under(HF_HOME=told["HF_HOME"], HF_HUB_OFFLINE="1") == folder
    assert hub.requests == []


def test_tells_how_many_bytes_have_come(hub: Any) -> None:
    hub.add("org/tiny", FILES)
    told = Told()
    resolve("org/tiny", progress=told)
    (_, total), *advances = told.events
    assert total == sum(count or 0 for _, count in advances) == len(b"{}" + b"weights" + b'{"a": 1}' + b"hello")
    assert {stage for stage, _ in told.events} == {"download"}


def test_a_revision_that_does_not_exist(hub: Any) -> None:
    hub.add("org/tiny", FILES)
    refuses("org/tiny@v9", "org/tiny has no revision 'v9'")


def test_weights_in_pickles_only(hub: Any) -> None:
    hub.add("org/old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    refuses("org/old", "publishes no weights in safetensors, and pickles are never loaded")


def test_a_repository_that_is_no_model(hub: Any) -> None:
    hub.add("org/data", {"README.md": b"", "model.safetensors": b""})
    refuses("org/data", r"holds no config\.json")


def test_a_hub_that_cannot_be_reached(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refuses("org/tiny", r"http://127\.0\.0\.1:9 cannot be reached and org/tiny is not")


def test_two_slashes_are_no_hub_id(hub: Any) -> None:
    refuses("org--x/..", "is not a Hub id")


def refuses(reference: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        resolve(reference)
    assert "\n" not in str(caught.value)


class Told(NullProgress):
    """What a download says of itself."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int | None]]
        object.__setattr__(self, "events", [])  # the class that says nothing is frozen

    def start(self, stage: str, total: int | None = None) -> None:
        self.events.append((stage, total))

    def advance(self, stage: str, count: int = 1) -> None:
        self.events.append((stage, count))

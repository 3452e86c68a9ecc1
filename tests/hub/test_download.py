"""The real Hub client against a Hub of our own."""

from __future__ import annotations

import shutil
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


def test_a_disk_that_is_too_small(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/tiny", FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5))
    with pytest.raises(InputError, match=r"0\.0 GB are to be downloaded, and .* has 0\.0 GB left"):
        resolve("org/tiny")
    assert not [path for path in hub.requests if path.endswith("safetensors") and hub.requests.count(path) > 1]


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

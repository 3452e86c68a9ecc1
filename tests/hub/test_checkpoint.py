"""What the Hub and a model's small files tell of its weights before they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autodeploy.hub import resolve
from autodeploy.hub.checkpoint import describe_checkpoint
from autodeploy.job import plan
from autodeploy.testing import tiny_config

QUANTIZED = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
WEIGHTS = {"model-1.safetensors": b"12345", "model-2.safetensors": b"123", "consolidated.safetensors": b"1" * 99}


def files(**config: Any) -> dict[str, bytes]:
    """A model whose weights are a few bytes, in two files."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    data = {**tiny_config("llama", **sizes).to_dict(), **config}
    return {"config.json": json.dumps(data).encode(), "tokenizer_config.json": b"{}", **WEIGHTS}


def test_the_hub_tells_the_size_of_what_a_build_downloads(hub: Any) -> None:
    hub.add("org/tiny", files())
    found = describe_checkpoint(resolve("org/tiny", weights=False))
    assert (found.num_files, found.num_bytes, found.license_url) == (2, 8, None)
    assert not [one for one in hub.requests if one.endswith(".safetensors")]


def test_who_may_have_it(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.add("org/gated", {**files(), "chat_template.jinja": b"hello"})
    hub.gated.add("org/gated")
    found = describe_checkpoint(resolve("org/gated", weights=False))
    assert found.license_url == f"{hub.url}/org/gated"
    assert found.has_chat_template


def test_without_an_answer_the_small_files_are_what_is_known(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    hub.add("org/tiny", {**files(), "model.safetensors.index.json": json.dumps(index).encode()})
    resolved = resolve("org/tiny", weights=False)
    for how in ("offline", "broken"):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "offline")
        hub.broken = how == "broken"
        found = describe_checkpoint(resolved)
        assert (found.num_files, found.num_bytes) == (2, 8)


def test_a_folder_is_weighed(tmp_path: Path) -> None:
    for name, content in files().items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "consolidated.safetensors").unlink()
    assert describe_checkpoint(resolve(str(tmp_path))).size == "0.00 GB in 2 files"


def test_a_plan_tells_it(hub: Any) -> None:
    hub.add("org/tiny", files())
    told = {one.what: (one.value, one.reason) for one in plan("org/tiny", gpu="cpu").decisions}
    assert told["checkpoint"] == ("0.00 GB in 2 files", "not gated")
    assert told["chat template"][0] == "none"


def test_a_quantized_checkpoint_takes_fewer_bytes_of_the_plan(hub: Any) -> None:
    hub.add("org/plain", files())
    hub.add("org/fp8", files(quantization_config=QUANTIZED))
    plain, narrow = (plan(name, gpu="h200") for name in ("org/plain", "org/fp8"))
    told = {one.what: one.value for one in narrow.decisions}
    assert "fp8" in told["stored as"]
    assert plain.outlook is not None
    assert narrow.outlook is not None
    assert narrow.outlook.fit.weights < 0.85 * plain.outlook.fit.weights

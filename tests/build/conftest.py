"""A tiny random model in a folder, as transformers saves it, and what a build makes of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import autodeploy as ad
from autodeploy.artifact import Artifact

CONFIG = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native_cache: Path) -> None:
    """Builds of these tests go into a cache of their own, which shares the compiled kernels."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "native").symlink_to(native_cache)
    monkeypatch.setenv("AUTODEPLOY_CACHE", str(cache))


@pytest.fixture(scope="session")
def native_cache() -> Path:
    from autodeploy.cache import cache_dir
    from autodeploy.kernels import native

    native.why_unavailable()  # compiles them, once
    return cache_dir() / "native"


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved") / "model"
    factory: Any = AutoModelForCausalLM
    factory.from_config(AutoConfig.for_model("llama", **CONFIG)).save_pretrained(folder)
    return folder


@pytest.fixture
def model_folder(saved_model: Path, tmp_path: Path) -> Path:
    """The model, for a test that may change it."""
    return shutil.copytree(saved_model, tmp_path / "model")


@pytest.fixture(scope="session")
def built(saved_model: Path, native_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The model built for the CPU in float32, for tests that leave it as it is."""
    return ad.build(str(saved_model), out=tmp_path_factory.mktemp("built") / "out", gpu="cpu", dtype="fp32")

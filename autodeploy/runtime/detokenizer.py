"""Text that grows with the tokens: whole characters only, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from autodeploy.runtime.tokenizer import Tokenizer, decode

REPLACEMENT = "\ufffd"
NUM_CONTEXT = 5  # tokens decoded before the new ones: a tokenizer's first token may lose a space, or open a character
MAX_WINDOW = 24  # tokens decoded in one go before the window moves on


class Detokenizer:
    """Decodes a sequence bit by bit, holding text back while it ends inside a UTF-8 character.

    `context_ids` are the tokens before the first new one; the new text continues theirs.
    """

    def __init__(self, tokenizer: Tokenizer, context_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._window: list[int] = []
        self._num_emitted = 0  # characters of the window's text that are out already
        self._move_to(context_ids)

    def append(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens complete, which may be empty."""
        self._window += token_ids
        text = self._text()
        if text.endswith(REPLACEMENT):
            return ""
        new = self._emit(text)
        if len(self._window) > MAX_WINDOW:
            self._move_to(self._window)
        return new

    def flush(self) -> str:
        """The text still held back, broken as it is, at the end of the sequence."""
        return self._emit(self._text())

    def _move_to(self, token_ids: Sequence[int]) -> None:
        self._window = list(token_ids[-NUM_CONTEXT:])
        self._num_emitted = len(self._text().rstrip(REPLACEMENT))

    def _emit(self, text: str) -> str:
        new = text[self._num_emitted :]
        self._num_emitted = max(self._num_emitted, len(text))
        return new

    def _text(self) -> str:
        return decode(self._tokenizer, self._window, self._skip_special_tokens) if self._window else ""


class StopStrings:
    """Watches a text for stop strings; the one that is complete first wins, however the text is cut into tokens."""

    def __init__(self, stop_strings: Sequence[str], include_in_output: bool) -> None:
        self._stop_strings = stop_strings
        self._include_in_output = include_in_output
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that may go out, and the stop string that ends it, if one is complete."""
        text = self._held + text
        found = [(start + len(stop), start, stop) for stop in self._stop_strings if (start := text.find(stop)) >= 0]
        if found:
            end, start, stop = min(found)
            self._held = ""
            return text[: end if self._include_in_output else start], stop
        num_held = max((_overlap(text, stop) for stop in self._stop_strings), default=0)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held], None

    def flush(self) -> str:
        """The text held back as a possible start of a stop string, now that none will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop` without completing it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)

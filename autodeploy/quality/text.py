"""The text that a model is calibrated and measured on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from autodeploy.errors import InputError, nearest
from autodeploy.runtime.tokenizer import Tokenizer

SAMPLE = "sample"
NOTHING = "none"
FIELDS = ("text", "content", "prompt")
"""The keys of a line of JSON that hold its text, the first that is there."""
MESSAGES = "messages"
"""The key of a line of JSON that holds a conversation."""


@dataclass(frozen=True)
class Conversation:
    """Messages as pairs of a role and what it says, which become text by the model's chat template."""

    messages: tuple[tuple[str, str], ...]

    def text(self, tokenizer: Tokenizer) -> str:
        """The text that a model reads."""
        messages = [{"role": role, "content": content} for role, content in self.messages]
        return str(tokenizer.apply_chat_template(messages, tokenize=False))

    def __str__(self) -> str:
        return json.dumps(self.messages)


@dataclass(frozen=True)
class Text:
    """Some text, and where it came from."""

    name: str
    documents: tuple[str | Conversation, ...]

    @property
    def digest(self) -> str:
        """What it says, as a hash."""
        return hashlib.sha256("\0".join(map(str, self.documents)).encode()).hexdigest()

    def windows(self, tokenizer: Tokenizer, length: int, most: int | None = None) -> list[list[int]]:
        """Its tokens, documents joined by a blank line, in windows of `length`; at most `most` of them.

        Tokens that fill no window are left out, unless they are all. Raises InputError for text of one token or none.
        """
        read = (one if isinstance(one, str) else one.text(tokenizer) for one in self.documents)
        token_ids = tokenizer.encode("\n\n".join(read), add_special_tokens=False)
        whole = range(0, len(token_ids) - length + 1, length)
        windows = [token_ids[start : start + length] for start in whole][:most]
        if not windows and len(token_ids) < 2:
            raise InputError(f"{self.name} holds too little text: {len(token_ids)} tokens")
        return windows or [token_ids]

    def halves(self) -> tuple[Text, Text]:
        """Its first and its second half, so that what calibrates is not what measures."""
        middle = (len(self.documents) + 1) // 2
        return Text(self.name, self.documents[:middle]), Text(self.name, self.documents[middle:])


def read_text(source: str | Path = SAMPLE) -> Text:
    """The text of a file (`.txt`: paragraphs; `.jsonl`: a document a line), or of our own sample; none for "none".

    The sample is the beginning of "Shakespeare" in the Encyclopaedia Britannica of 1911, in the public domain.
    Raises InputError for a file that cannot be read, or a line without text.
    """
    if str(source) == NOTHING:
        return Text(NOTHING, ())
    if str(source) == SAMPLE:
        return Text(SAMPLE, _paragraphs(files("autodeploy.quality").joinpath("britannica.txt").read_text()))
    path = Path(source).expanduser()
    try:
        content = path.read_text()
    except FileNotFoundError as error:
        known = [file.name for kind in ("txt", "jsonl") for file in path.parent.glob(f"*.{kind}")]
        near = nearest(path.name, known) if known else "give a file"
        raise InputError(f"{path} does not exist; {near}, or {SAMPLE!r} for ours") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error
    documents = _lines(path, content) if path.suffix == ".jsonl" else _paragraphs(content)
    if not documents:
        raise InputError(f"{path} holds no text")
    return Text(path.name, documents)


def _paragraphs(content: str) -> tuple[str, ...]:
    """What blank lines part, each on one line: where a file's lines break says nothing."""
    return tuple(" ".join(part.split()) for part in content.split("\n\n") if part.strip())


def _lines(path: Path, content: str) -> tuple[str | Conversation, ...]:
    lines: Sequence[tuple[int, str]] = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line]
    return tuple(_document(f"{path}:{number}", line) for number, line in lines)


def _document(where: str, line: str) -> str | Conversation:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} is no JSON object")
    if MESSAGES in value:
        return _conversation(where, value[MESSAGES])
    found = [value[key] for key in FIELDS if isinstance(value.get(key), str)]
    if not found:
        raise InputError(f"{where} holds no text under any of {', '.join((*FIELDS, MESSAGES))}")
    return str(found[0])


def _conversation(where: str, messages: object) -> Conversation:
    try:
        pairs = tuple((one["role"], one["content"]) for one in messages)  # type: ignore[attr-defined]
    except (TypeError, KeyError):
        pairs = ()
    if not pairs or not all(isinstance(part, str) for pair in pairs for part in pair):
        raise InputError(f"{where}: messages are objects with a role and a content, both of them text")
    return Conversation(pairs)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autodeploy.errors import InputError
from autodeploy.quality import Text, read_text


class Words:
    """A tokenizer that gives each character its code."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, token_ids))

    def apply_chat_template(self, conversation: list[Any], *, tokenize: bool, **options: Any) -> Any:
        assert not tokenize
        return "".join(f"<{one['role']}>{one['content']}" for one in conversation)


def test_our_sample_is_prose() -> None:
    documents = [str(document) for document in read_text().documents]
    assert documents[0].startswith("Shakespeare, William (1564--1616), English poet")
    assert sum(map(len, documents)) > 80_000
    assert all("\n" not in document for document in documents)


def test_halves_share_nothing() -> None:
    first, second = read_text().halves()
    assert first.documents + second.documents == read_text().documents
    assert first.digest != second.digest


def test_a_file_of_paragraphs(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text("one\ntwo\n\n\nthree \n")
    assert read_text(file) == Text("some.txt", ("one two", "three"))


def test_a_file_of_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text('{"text": "one"}\n\n{"content": "two\\nlines", "id": 3}\n')
    assert read_text(file).documents == ("one", "two\nlines")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": 3}\n', r"a\.jsonl:2 holds no text under any of text, content, prompt"),
        ("a.jsonl", "{\n", r"a\.jsonl:1 is not JSON"),
        ("a.txt", " \n\n ", r"a\.txt holds no text"),
    ],
)
def test_files_without_text(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_text(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("one")
    with pytest.raises(InputError, match=r"does not exist; did you mean 'prose\.txt'\?, or 'sample' for ours"):
        read_text(tmp_path / "pros.txt")


def test_conversations_become_text_by_the_chat_template(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}) + "\n" + json.dumps({"text": "end"}))
    text = read_text(tmp_path / "a.jsonl")
    (window,) = text.windows(Words(), 100)
    assert "".join(map(chr, window)) == "<user>hi<assistant>yes\n\nend"
    assert text.digest != Text("a.jsonl", text.documents[1:]).digest


@pytest.mark.parametrize("messages", [[], "hi", [{"role": "user"}], [{"role": "user", "content": 3}]])
def test_messages_that_are_none(tmp_path: Path, messages: object) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
    with pytest.raises(InputError, match=r"a\.jsonl:1: messages are objects with a role and a content"):
        read_text(tmp_path / "a.jsonl")


def test_windows() -> None:
    text = Text("two", ("abc", "defg"))  # nine characters with the blank line between them
    assert text.windows(Words(), 4) == [[97, 98, 99, 10], [10, 100, 101, 102]]
    assert text.windows(Words(), 4, most=1) == [[97, 98, 99, 10]]
    assert len(text.windows(Words(), 100)[0]) == 9
    with pytest.raises(InputError, match="too little text"):
        Text("none", ("a",)).windows(Words(), 4)


def test_the_digest_knows_where_documents_end() -> None:
    assert json.dumps(["ab", "c"]) != json.dumps(["a", "bc"])
    assert Text("x", ("ab", "c")).digest != Text("x", ("a", "bc")).digest

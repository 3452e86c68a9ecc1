from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from autodeploy.runtime.detokenizer import Detokenizer, StopStrings
from tests.runtime.fakes import ByteTokenizer


class SpaceTokenizer(ByteTokenizer):
    """Like sentencepiece: words begin with a space, which the first token of a text loses."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(f" w{token}" for token in token_ids).removeprefix(" ")


def pieces(text: str) -> list[str]:
    detokenizer = Detokenizer(ByteTokenizer(), [], skip_special_tokens=True)
    parts = [detokenizer.append([token]) for token in text.encode()]
    return [*parts, detokenizer.flush()]


def test_characters_come_out_whole() -> None:
    assert pieces("aé🙂z") == ["a", "", "é", "", "", "", "🙂", "z", ""]


@given(st.text(max_size=60))
def test_the_pieces_make_up_the_text(text: str) -> None:
    parts = pieces(text)
    assert "".join(parts) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


@given(st.lists(st.integers(0, 255), max_size=80), st.integers(0, 80))
def test_broken_bytes_decode_as_a_whole_would(token_ids: list[int], num_prompt: int) -> None:
    prompt, new = token_ids[:num_prompt], token_ids[num_prompt:]
    tokenizer = ByteTokenizer()
    detokenizer = Detokenizer(tokenizer, [], skip_special_tokens=True)
    text = detokenizer.append(prompt) + "".join(detokenizer.append([token]) for token in new) + detokenizer.flush()
    assert text == tokenizer.decode(token_ids)


def test_an_unfinished_character_shows_at_the_end_only() -> None:
    detokenizer = Detokenizer(ByteTokenizer(), [], skip_special_tokens=True)
    assert detokenizer.append("🙂".encode()[:2]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_a_character_begun_in_the_prompt_is_completed() -> None:
    first, *rest = "é".encode()
    detokenizer = Detokenizer(ByteTokenizer(), [97, first], skip_special_tokens=True)
    assert detokenizer.append(rest) == "é"


def test_text_continues_the_prompts() -> None:
    detokenizer = Detokenizer(SpaceTokenizer(), list(range(9)), skip_special_tokens=True)
    assert [detokenizer.append([token]) for token in range(40)] == [f" w{token}" for token in range(40)]


@pytest.mark.parametrize(("skip", "text"), [(True, "ab"), (False, "a<eos>b")])
def test_special_tokens_can_be_skipped(skip: bool, text: str) -> None:
    detokenizer = Detokenizer(ByteTokenizer(), [], skip_special_tokens=skip)
    assert "".join(detokenizer.append([token]) for token in (97, 256, 98)) == text


def run_stops(parts: list[str], stops: list[str], include: bool = False) -> tuple[list[str], str | None]:
    watcher = StopStrings(stops, include)
    out = []
    for part in parts:
        text, stop = watcher.push(part)
        out.append(text)
        if stop is not None:
            return out, stop
    return [*out, watcher.flush()], None


def test_a_possible_start_of_a_stop_string_is_held_back() -> None:
    assert run_stops(["a<", "/s", "> b"], ["</s>"]) == (["a", "", ""], "</s>")
    assert run_stops(["a<", "/s", "b<"], ["</s>"]) == (["a", "", "</sb", "<"], None)


def test_the_stop_string_can_be_included() -> None:
    assert run_stops(["a<", "/s", "> b"], ["</s>"], include=True) == (["a", "", "</s>"], "</s>")


@given(
    st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.booleans(), st.data()
)
def test_stop_strings_do_not_depend_on_the_cuts(
    text: str, stops: list[str], include: bool, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    out, stop = run_stops(parts, stops, include)
    ends = [(text.index(one) + len(one), text.index(one), one) for one in stops if one in text]
    if not ends:
        assert ("".join(out), stop) == (text, None)
        return
    end, start, first = min(ends)
    assert ("".join(out), stop) == (text[: end if include else start], first)

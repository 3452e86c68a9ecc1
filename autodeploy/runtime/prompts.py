"""The forms a prompt may take."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, TypedDict, cast

import msgspec
from msgspec import Meta

from autodeploy.errors import RequestError, nearest
from autodeploy.runtime.tokenizer import Tokenizer


class TextPrompt(TypedDict):
    """A prompt as text."""

    prompt: str


class TokensPrompt(TypedDict):
    """A prompt as token ids."""

    prompt_token_ids: list[int]


Prompt = str | list[int] | TextPrompt | TokensPrompt


def prompt_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or a sequence of them, as a list; a list that starts with an integer is one prompt."""
    if isinstance(prompts, str | dict) or (isinstance(prompts, list) and prompts and isinstance(prompts[0], int)):
        return [cast("Prompt", prompts)]
    return list(cast("Sequence[Prompt]", prompts))


def read_prompt(prompt: Prompt, tokenizer: Tokenizer | None, vocab_size: int) -> tuple[str | None, list[int]]:
    """The text, if given as text, and the token ids of a prompt; raises `RequestError` for what is neither."""
    content = _content(prompt)
    if isinstance(content, str):
        if tokenizer is None:
            raise RequestError("the prompt is text and this model has no tokenizer: give prompt_token_ids")
        return content, tokenizer.encode(content)
    if not isinstance(content, list):
        raise _not_a_prompt(content)
    try:  # types and bounds in one look: a GPU is waiting
        return None, msgspec.convert(content, _ids_below(vocab_size))
    except msgspec.ValidationError:
        if not set(map(type, content)) <= {int}:
            raise _not_a_prompt(content) from None
        check_token_ids("the prompt", content, vocab_size)
        raise


def check_prompt_len(num_prompt: int, max_len: int) -> None:
    """Raise `RequestError` for a prompt that can never run: one token must fit behind it."""
    if num_prompt == 0:
        raise RequestError("the prompt is empty: give at least one token")
    if num_prompt >= max_len:
        raise RequestError(f"the prompt has {num_prompt} tokens; at most {max_len - 1} can be served here")


def check_token_ids(where: str, token_ids: list[int], vocab_size: int) -> None:
    """Raise `RequestError` unless every token id is one of the model's."""
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        wrong = next(token for token in token_ids if not 0 <= token < vocab_size)
        raise RequestError(f"{where} has token id {wrong}; this model has 0 to {vocab_size - 1}")


def _not_a_prompt(content: object) -> RequestError:
    return RequestError(f"a prompt is a string or a list of token ids, got {content!r:.80}")


@cache
def _ids_below(vocab_size: int) -> Any:
    return list[Annotated[int, Meta(ge=0, lt=vocab_size)]]


def _content(prompt: object) -> object:
    if not isinstance(prompt, dict):
        return prompt
    keys = ("prompt", "prompt_token_ids")
    unknown = [str(key) for key in prompt if key not in keys]
    if unknown:
        raise RequestError(f"a prompt has no key {unknown[0]!r}; {nearest(unknown[0], keys)}")
    if len(prompt) != 1:
        raise RequestError("a prompt given as a dict has either 'prompt' or 'prompt_token_ids'")
    return next(iter(prompt.values()))

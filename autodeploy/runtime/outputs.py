"""What the runtime answers, under vLLM's field names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]


@dataclass(slots=True)
class Logprob:
    """The natural log of a token's probability, its rank (1 is the likeliest), and its text if there is a tokenizer."""

    logprob: float
    rank: int
    decoded_token: str | None


PromptLogprobs = list[dict[int, Logprob] | None]
"""By place in the prompt; None for the first token, which nothing predicts."""


@dataclass(slots=True)
class CompletionOutput:
    """One of the `n` answers to a prompt, or what is new in it since the last output of the stream.

    `text`, `token_ids` and `logprobs` are the new part; `cumulative_logprob` counts the whole answer. `finish_reason`
    is None until the answer ends. `stop_reason` is the stop string or stop token id met, None for the end of sequence.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None = None
    cumulative_logprob: float | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class RequestOutput:
    """An answer to one prompt. In a stream, `outputs` has only the completions that moved."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: PromptLogprobs | None = None

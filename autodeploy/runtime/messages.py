"""What passes between the side that knows text and the one that knows tokens."""

from __future__ import annotations

from msgspec import Struct

from autodeploy.runtime.logprobs import TokenLogprobs
from autodeploy.runtime.outputs import FinishReason
from autodeploy.runtime.sampling_params import SamplingParams


class NewRequest(Struct):
    """A prompt to generate `params.n` sequences from, seeded by `seed`."""

    request_id: str
    token_ids: list[int]
    params: SamplingParams
    seed: int


class NewTokens(Struct):
    """What a step has added to sequence `index` of a request, and whether it ends it.

    `stop_reason` is the token id that was asked to stop at; None for the end of sequence. `logprobs` are about
    `token_ids`; empty where none were asked for.
    """

    request_id: str
    index: int
    token_ids: list[int]
    logprobs: list[TokenLogprobs] = []
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None


class PromptRows(Struct):
    """Logprobs of the prompt's tokens from number `first` on."""

    request_id: str
    first: int
    rows: list[TokenLogprobs]


class StepOutput(Struct):
    """Everything that a step has to tell."""

    tokens: list[NewTokens] = []
    prompt_rows: list[PromptRows] = []

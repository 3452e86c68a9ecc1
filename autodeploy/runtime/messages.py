"""What passes between the side that knows text and the one that knows tokens."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from autodeploy.runtime.outputs import FinishReason
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.stats import EngineStats


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A token's natural log-probability and rank (1 is the likeliest), and the likeliest tokens, best first."""

    token_id: int
    logprob: float
    rank: int
    top_ids: list[int]
    top_logprobs: list[float]


class NewRequest(Struct):
    """A prompt, int64, to generate `params.n` sequences from, seeded by `seed`."""

    request_id: str
    token_ids: array  # type: ignore[type-arg]  # msgspec reads this, and an array cannot be subscripted in Python 3.11
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


class Start(Struct, tag=True):
    """What a worker is to load: an artifact's folder, for which device and how, with which runtime settings."""

    artifact: str
    gpu: str
    capture: str | None
    settings: dict[str, Any]


class Ready(Struct, tag=True):
    """The worker has loaded its model."""

    vocab_size: int
    max_len: int
    stats: EngineStats
    notes: list[str]
    phases: dict[str, float]


class Add(Struct, tag=True):
    """Queue requests."""

    requests: list[NewRequest]


class Finish(Struct, tag=True):
    """End a sequence of a request, or all of them."""

    request_id: str
    index: int | None


class Stop(Struct, tag=True):
    """End the process."""


class Stepped(Struct, tag=True):
    """What a step had to tell, and the gauges after it."""

    output: StepOutput
    stats: EngineStats


class Failed(Struct, tag=True):
    """The worker ends; the sentence says why, and whether what it was given is at fault."""

    sentence: str
    is_bad_input: bool


ToWorker = Start | Add | Finish | Stop
FromWorker = Ready | Stepped | Failed


def _plain(value: Any) -> Any:
    if isinstance(value, SamplingParams):
        return value.model_dump_json(exclude_defaults=True).encode()
    if isinstance(value, array):
        return value.tobytes()
    raise NotImplementedError(f"{type(value).__name__} does not travel")


def _typed(kind: type, value: Any) -> Any:
    if kind is SamplingParams:
        return _params(value)
    if kind is array:
        return array("q", value)
    raise NotImplementedError(f"{kind.__name__} does not travel")


@lru_cache(maxsize=1024)
def _params(data: bytes) -> SamplingParams:
    """Many requests have the same."""
    return SamplingParams.model_validate_json(data)


def packed(token_ids: list[int]) -> array[int]:
    """Token ids as int64, which nobody need convert from here to the GPU.

    An array checks signed numbers by a format string, which takes three times as long as unsigned ones.
    """
    return array("q", array("Q", token_ids).tobytes())


# Each takes longer to make than to use.
_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_TO_WORKER: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker, dec_hook=_typed)
_FROM_WORKER: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker, dec_hook=_typed)


def encode(message: ToWorker | FromWorker) -> bytes:
    """A message as MessagePack."""
    return _ENCODER.encode(message)


def decode_to_worker(data: bytes) -> ToWorker:
    """A message that a worker received."""
    return _TO_WORKER.decode(data)


def decode_from_worker(data: bytes) -> FromWorker:
    """A message that a worker sent."""
    return _FROM_WORKER.decode(data)

"""A model whose cache is a hash of the history, so that any wrong page, slot or position changes what it says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autodeploy.runtime.core import EngineCore
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.model import StepInputs
from autodeploy.runtime.request import Request
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.scheduler import Scheduler

Words = npt.NDArray[np.uint64]


def mix(words: Words) -> Words:
    words = (words ^ (words >> np.uint64(31))) * np.uint64(0x7FB5D329728EA185)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x81DADEF4BC2DD44D)
    return words ^ (words >> np.uint64(33))


def attend(cells: Words) -> Words:
    """For each position, a hash of the cells up to it, in order."""
    places = np.arange(len(cells), dtype=np.uint64)
    return mix(np.cumsum(mix(cells + places * np.uint64(0x9E3779B97F4A7C15)), dtype=np.uint64))


def first_layer(token_ids: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> Words:
    return mix(token_ids.astype(np.uint64) * np.uint64(1_000_003) + positions.astype(np.uint64) + np.uint64(1))


def logits_of(words: Words, vocab_size: int) -> Tensor:
    """Pseudo-random logits `[R, vocab_size]` in [-4, 4)."""
    spread = mix(words[:, None] + np.arange(vocab_size, dtype=np.uint64)[None, :] * np.uint64(0xD6E8FEB86659FD93))
    return torch.from_numpy(((spread >> np.uint64(40)).astype(np.float64) * 2.0**-24 * 8 - 4).astype(np.float32))


def history_logits(token_ids: Sequence[int], vocab_size: int) -> Tensor:
    """The logits `[T, vocab_size]` after each of `token_ids`, computed with no cache at all."""
    tokens = np.array(token_ids, dtype=np.int64)
    hidden = attend(first_layer(tokens, np.arange(len(tokens))))
    return logits_of(attend(hidden), vocab_size)


class FakeModel:
    """Two layers of "attention" over a paged cache of hashes; it also checks the inputs of each step."""

    def __init__(self, vocab_size: int = 32, max_model_len: int = 64) -> None:
        self.vocab_size = vocab_size
        self.max_model_len = max_model_len
        self.device = torch.device("cpu")
        self.is_capturable = False
        self.num_tokens_of_steps: list[int] = []

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        return [torch.full((num_pages, page_size), -77, dtype=torch.int64) for _ in range(2)]

    def page_bytes(self, page_size: int) -> int:
        return 16 * page_size

    def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
        self._check(inputs)
        self.num_tokens_of_steps.append(len(inputs.input_ids))
        hidden = first_layer(inputs.input_ids.numpy(), inputs.position_ids.numpy())
        for layer in cache:
            hidden = self._attend_pages(hidden, inputs, layer.numpy().view(np.uint64))
        return logits_of(hidden[inputs.logit_rows.numpy()], self.vocab_size)

    def _attend_pages(self, new: Words, inputs: StepInputs, layer: Words) -> Words:
        layer.reshape(-1)[inputs.slots.numpy()] = new
        starts, table = inputs.query_start.tolist(), inputs.page_table.numpy()
        out = []
        for request, length in enumerate(inputs.context_len.tolist()):
            pages = table[request, : -(-length // layer.shape[1])]
            seen = attend(layer[pages].reshape(-1)[:length])
            out.append(seen[length - (starts[request + 1] - starts[request]) :])
        return np.concatenate(out)

    def _check(self, inputs: StepInputs) -> None:
        num_tokens, num_requests = len(inputs.input_ids), len(inputs.context_len)
        assert inputs.input_ids.dtype == inputs.position_ids.dtype == inputs.slots.dtype == torch.int64
        assert inputs.logit_rows.dtype == torch.int64
        assert inputs.query_start.dtype == inputs.context_len.dtype == inputs.page_table.dtype == torch.int32
        assert inputs.position_ids.shape == inputs.slots.shape == (num_tokens,)
        assert inputs.query_start.shape == (num_requests + 1,)
        assert inputs.page_table.shape[0] == num_requests
        assert inputs.query_start[-1] == num_tokens
        assert len(set(inputs.slots.tolist())) == num_tokens, "two tokens are written to one slot"
        assert int(inputs.position_ids.max()) < self.max_model_len


class ByteTokenizer:
    """One token a byte; 256 is a special token that shows as `<eos>` unless it is skipped."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        parts = [bytes([token]) if token < 256 else b"" if skip_special_tokens else b"<eos>" for token in token_ids]
        return b"".join(parts).decode("utf-8", errors="replace")

    def apply_chat_template(self, conversation: list[dict[str, str]], *, tokenize: bool, **options: object) -> str:
        if any(message["role"] not in ("user", "assistant") for message in conversation):
            raise ValueError("roles are user and assistant")
        turns = "".join(f"{message['role']}: {message['content']}\n" for message in conversation)
        return turns + ("assistant: " if options["add_generation_prompt"] else "")


class ScriptedModel(FakeModel):
    """Says `script` after any prompt of `num_prompt` tokens, whatever the cache holds."""

    def __init__(self, script: Sequence[int], num_prompt: int, vocab_size: int = 257) -> None:
        super().__init__(vocab_size=vocab_size, max_model_len=512)
        self._script = list(script)
        self._num_prompt = num_prompt

    def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
        places = inputs.position_ids[inputs.logit_rows] - (self._num_prompt - 1)
        tokens = [self._script[place % len(self._script)] for place in places.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(tokens), self.vocab_size).float() * 10


def new_request(
    prompt: Sequence[int] = (1, 2, 3),
    params: SamplingParams | None = None,
    *,
    outputs: Sequence[int] = (),
    seed: int = 0,
    max_len: int = 1024,
    index: int = 0,
    row: int = 0,
) -> Request:
    """A request that has generated `outputs` already."""
    params = params or SamplingParams(max_tokens=None)
    request = Request("parent", prompt, params, max_len=max_len, seed=seed, index=index)
    request.token_ids.extend(outputs)
    request.row = row
    return request


def scheduler_of(engine: Engine) -> Scheduler:
    """The scheduler of an engine whose core is in this process."""
    assert isinstance(engine.core, EngineCore)
    return engine.core.scheduler

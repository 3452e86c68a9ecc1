"""What OpenAI's API answers, made of the engine's outputs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from autodeploy.runtime.outputs import CompletionOutput, Logprob, RequestOutput

Kind = Literal["chat", "text"]

LOWEST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass
class Usage:
    """Token counts of one HTTP request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    _prompts: set[int] = field(default_factory=set)

    def count(self, index: int, output: RequestOutput) -> None:
        """Take in an output of prompt number `index`."""
        if index not in self._prompts:
            self._prompts.add(index)
            self.prompt_tokens += len(output.prompt_token_ids)
        self.completion_tokens += sum(len(one.token_ids) for one in output.outputs)

    def as_dict(self) -> dict[str, int]:
        """The counts as the API shows them."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass(frozen=True)
class Replies:
    """Makes the replies to one HTTP request, whole or in chunks.

    `n` is the number of choices that a prompt has, `num_top` that of the alternatives a token's logprobs show.
    """

    kind: Kind
    model: str
    n: int
    num_top: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, outputs: Sequence[RequestOutput], usage: Usage) -> dict[str, Any]:
        """The reply to a request that is not streamed."""
        choices = [
            self._choice(index, one, self._text(one.text), one.finish_reason)
            for index, output in enumerate(outputs)
            for one in output.outputs
        ]
        return {**self._head(chunk=False), "choices": choices, "usage": usage.as_dict()}

    def opening(self) -> dict[str, Any]:
        """The chunk that begins a streamed chat: who speaks in each choice."""
        delta = {"role": "assistant", "content": ""}
        choices = [{"index": i, "delta": delta, "logprobs": None, "finish_reason": None} for i in range(self.n)]
        return {**self._head(chunk=True), "choices": choices}

    def chunk(self, index: int, output: RequestOutput) -> dict[str, Any]:
        """What is new about prompt number `index`."""
        choices = [
            self._choice(index, one, {"delta": {"content": one.text}}, one.finish_reason)
            if self.kind == "chat"
            else self._choice(index, one, {"text": one.text}, one.finish_reason)
            for one in output.outputs
        ]
        return {**self._head(chunk=True), "choices": choices}

    def closing(self, usage: Usage) -> dict[str, Any]:
        """The chunk of token counts that a stream may end with."""
        return {**self._head(chunk=True), "choices": [], "usage": usage.as_dict()}

    def _head(self, *, chunk: bool) -> dict[str, Any]:
        if self.kind == "text":
            return {"id": f"cmpl-{self.id}", "object": "text_completion", "created": self.created, "model": self.model}
        name = "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": f"chatcmpl-{self.id}", "object": name, "created": self.created, "model": self.model}

    def _text(self, text: str) -> dict[str, Any]:
        if self.kind == "text":
            return {"text": text}
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _choice(
        self, prompt: int, output: CompletionOutput, text: dict[str, Any], reason: str | None
    ) -> dict[str, Any]:
        logprobs = None if output.logprobs is None else self._logprobs(output.logprobs)
        return {"index": prompt * self.n + output.index, **text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[dict[int, Logprob]]) -> dict[str, Any]:
        make = chat_logprobs if self.kind == "chat" else text_logprobs
        return make(tokens, self.num_top)


def chat_logprobs(tokens: Sequence[dict[int, Logprob]], num_top: int) -> dict[str, Any]:
    """The form of chats: each token, and the likeliest ones in its place."""
    content = [
        {**_entry(*next(iter(token.items()))), "top_logprobs": [_entry(*one) for one in likeliest(token, num_top)]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[dict[int, Logprob]], num_top: int) -> dict[str, Any]:
    """The older form: parallel lists. The offsets count from the start of this piece of text."""
    chosen = [next(iter(token.items())) for token in tokens]
    names = [_name(*one) for one in chosen]
    offsets = [sum(map(len, names[:index])) for index in range(len(names))]
    return {
        "tokens": names,
        "token_logprobs": [_finite(logprob) for _, logprob in chosen],
        "top_logprobs": [{_name(*one): _finite(one[1]) for one in likeliest(token, num_top)} for token in tokens],
        "text_offset": offsets,
    }


def likeliest(token: dict[int, Logprob], num_top: int) -> list[tuple[int, Logprob]]:
    """The `num_top` likeliest, best first; `token` also has the chosen one, however unlikely."""
    return sorted(token.items(), key=lambda one: one[1].rank)[:num_top]


def _entry(token_id: int, logprob: Logprob) -> dict[str, Any]:
    name = _name(token_id, logprob)
    return {"token": name, "logprob": _finite(logprob), "bytes": list(name.encode())}


def _name(token_id: int, logprob: Logprob) -> str:
    return f"token_id:{token_id}" if logprob.decoded_token is None else logprob.decoded_token


def _finite(logprob: Logprob) -> float:
    return max(logprob.logprob, LOWEST_LOGPROB)

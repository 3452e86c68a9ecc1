"""The growing answer of one request, and of the n requests of one prompt."""

from __future__ import annotations

from dataclasses import dataclass

from autodeploy.runtime.detokenizer import Detokenizer, StopStrings
from autodeploy.runtime.logprobs import TokenLogprobs
from autodeploy.runtime.outputs import CompletionOutput, Logprob, PromptLogprobs, RequestOutput
from autodeploy.runtime.request import Request
from autodeploy.runtime.tokenizer import Tokenizer, decode


class Completion:
    """Turns a request's tokens into text and logprobs, and reports what is new.

    Text is made token by token for a stream or to look for stop strings, else once at the end.
    """

    def __init__(self, request: Request, tokenizer: Tokenizer | None, stream: bool) -> None:
        params = request.params
        self.request = request
        self._tokenizer = tokenizer if params.detokenize else None
        self._detokenizer = (
            Detokenizer(self._tokenizer, request.token_ids, params.skip_special_tokens) if self._tokenizer else None
        )
        self._stops = StopStrings(params.stop_strings, params.include_stop_str_in_output)
        self._decodes_at_once = stream or bool(params.stop_strings)
        self._num_decoded = 0
        self._num_reported = 0
        self._text = ""
        self._logprobs: list[dict[int, Logprob]] | None = None if params.logprobs is None else []
        self._cumulative_logprob = None if params.logprobs is None else 0.0

    def advance(self, logprobs: TokenLogprobs | None) -> str | None:
        """Take in the token that the request has just got; the stop string that it completes, if any."""
        if logprobs is not None and self._logprobs is not None and self._cumulative_logprob is not None:
            self._logprobs.append(readable(logprobs, self._tokenizer))
            self._cumulative_logprob += logprobs.logprob
        return self.decode() if self._decodes_at_once or self.request.is_finished else None

    def decode(self) -> str | None:
        """Make text of the new tokens, of all that is held back too once the request is finished; see `advance`."""
        if self._detokenizer is None:
            return None
        request = self.request
        token_ids = request.token_ids[request.num_prompt + self._num_decoded :]
        self._num_decoded = request.num_output
        ended_by_token = request.finish_reason == "stop"
        if ended_by_token and not request.params.include_stop_str_in_output:
            token_ids = token_ids[:-1]
        text = self._detokenizer.append(token_ids)
        if request.is_finished:
            text += self._detokenizer.flush()
        stop = None
        if request.num_output >= request.params.min_tokens:
            text, stop = self._stops.push(text)
            if request.is_finished and stop is None:
                text += self._stops.flush()
        self._text += text
        return stop

    def report(self) -> CompletionOutput:
        """What is new since the last report."""
        request = self.request
        token_ids = request.token_ids[request.num_prompt + self._num_reported :]
        text, logprobs = self._text, self._logprobs
        self._num_reported = request.num_output
        self._text = ""
        self._logprobs = None if logprobs is None else []
        return CompletionOutput(
            request.index,
            text,
            token_ids,
            logprobs,
            self._cumulative_logprob,
            request.finish_reason,
            request.stop_reason,
        )


@dataclass(slots=True)
class Generation:
    """The n completions of one prompt."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    completions: list[Completion]
    stream: bool
    prompt_logprobs: PromptLogprobs | None

    @property
    def is_finished(self) -> bool:
        """Whether every completion has ended."""
        return all(completion.request.is_finished for completion in self.completions)

    def take_prompt(self, first: int, rows: list[TokenLogprobs], tokenizer: Tokenizer | None) -> None:
        """Keep the logprobs of the prompt tokens from `first` on, which were asked for."""
        assert self.prompt_logprobs is not None
        self.prompt_logprobs[first : first + len(rows)] = [readable(row, tokenizer) for row in rows]

    def report(self, completions: list[Completion]) -> RequestOutput:
        """What is new in some of its completions."""
        return RequestOutput(
            self.request_id,
            self.prompt,
            self.prompt_token_ids,
            [completion.report() for completion in completions],
            self.is_finished,
            self.prompt_logprobs,
        )


def readable(row: TokenLogprobs, tokenizer: Tokenizer | None) -> dict[int, Logprob]:
    """A token and its likeliest alternatives by token id, the token itself first."""
    found = {row.token_id: Logprob(row.logprob, row.rank, None)}
    for rank, (token_id, logprob) in enumerate(zip(row.top_ids, row.top_logprobs, strict=True), start=1):
        found.setdefault(token_id, Logprob(logprob, rank, None))
    if tokenizer is not None:
        for token_id, entry in found.items():
            entry.decoded_token = decode(tokenizer, [token_id], skip_special_tokens=False)
    return found

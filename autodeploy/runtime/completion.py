"""The growing answer of one request, and of the n requests of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autodeploy.runtime.detokenizer import Detokenizer, StopStrings
from autodeploy.runtime.messages import NewTokens, TokenLogprobs
from autodeploy.runtime.outputs import CompletionOutput, FinishReason, Logprob, PromptLogprobs, RequestOutput
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.tokenizer import Tokenizer, decode


class Completion:
    """Turns the tokens of one answer into text and logprobs, and reports what is new.

    Text is made token by token for a stream or to look for stop strings, else once at the end.
    """

    def __init__(
        self,
        index: int,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        tokenizer: Tokenizer | None,
        stream: bool,
    ) -> None:
        self.index = index
        self.finish_reason: FinishReason | None = None
        self._stop_reason: int | str | None = None
        self._params = params
        self._token_ids: list[int] = []
        self._tokenizer = tokenizer if params.detokenize else None
        self._detokenizer = (
            Detokenizer(self._tokenizer, prompt_token_ids, params.skip_special_tokens) if self._tokenizer else None
        )
        self._stops = StopStrings(params.stop_strings, params.include_stop_str_in_output)
        self._decodes_at_once = stream or bool(params.stop_strings)
        self._num_decoded = 0
        self._num_reported = 0
        self._text = ""
        self._logprobs: list[dict[int, Logprob]] | None = None if params.logprobs is None else []
        self._cumulative_logprob = None if params.logprobs is None else 0.0

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be added."""
        return self.finish_reason is not None

    def advance(self, new: NewTokens) -> bool:
        """Take in new tokens; whether they complete a stop string, at which this answer then ends."""
        self._token_ids += new.token_ids
        self.finish_reason, self._stop_reason = new.finish_reason, new.stop_reason
        if self._logprobs is not None and self._cumulative_logprob is not None:
            self._logprobs += [readable(one, self._tokenizer) for one in new.logprobs]
            self._cumulative_logprob += sum(one.logprob for one in new.logprobs)
        stop = self._decode() if self._decodes_at_once or self.is_finished else None
        if stop is None:
            return False
        self.finish_reason, self._stop_reason = "stop", stop
        return True

    def finish(self, reason: FinishReason) -> None:
        """End for a reason that is not in the tokens."""
        self.finish_reason = reason
        self._decode()

    def _decode(self) -> str | None:
        """Make text of the new tokens, of all that is held back too once the answer is finished; a stop string."""
        if self._detokenizer is None:
            return None
        token_ids = self._token_ids[self._num_decoded :]
        self._num_decoded = len(self._token_ids)
        ended_by_token = self.finish_reason == "stop"
        if ended_by_token and not self._params.include_stop_str_in_output:
            token_ids = token_ids[:-1]
        text = self._detokenizer.append(token_ids)
        if self.is_finished:
            text += self._detokenizer.flush()
        stop = None
        if len(self._token_ids) >= self._params.min_tokens:
            text, stop = self._stops.push(text)
            if self.is_finished and stop is None:
                text += self._stops.flush()
        self._text += text
        return stop

    def report(self) -> CompletionOutput:
        """What is new since the last report."""
        token_ids = self._token_ids[self._num_reported :]
        text, logprobs = self._text, self._logprobs
        self._num_reported = len(self._token_ids)
        self._text = ""
        self._logprobs = None if logprobs is None else []
        return CompletionOutput(
            self.index, text, token_ids, logprobs, self._cumulative_logprob, self.finish_reason, self._stop_reason
        )


@dataclass(slots=True)
class Generation:
    """The n completions of one prompt."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    completions: list[Completion]
    stream: bool
    prompt_logprobs: PromptLogprobs | None = field(init=False)

    def __post_init__(self) -> None:
        wanted = self.params.prompt_logprobs is not None
        self.prompt_logprobs = [None] * len(self.prompt_token_ids) if wanted else None

    @property
    def is_finished(self) -> bool:
        """Whether every completion has ended."""
        return all(completion.is_finished for completion in self.completions)

    def take_prompt(self, first: int, rows: list[TokenLogprobs], tokenizer: Tokenizer | None) -> None:
        """Keep the logprobs of the prompt tokens from `first` on, which were asked for."""
        assert self.prompt_logprobs is not None
        tokenizer = tokenizer if self.params.detokenize else None
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

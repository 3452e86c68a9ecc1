"""How a request wants its tokens chosen, and when it ends."""

from __future__ import annotations

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from autodeploy.errors import RequestError
from autodeploy.runtime.validation import explain

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing logits by them would overflow float32."""


class SamplingParams(BaseModel):
    """Sampling options under the names vLLM and TensorRT-LLM share; a bad value raises `RequestError`.

    `temperature=0` is greedy. `top_k` of 0 or -1 is off. `max_tokens=None` runs to the end of the model's context.
    Penalties and `logit_bias` act on the logits before the temperature; `logprobs` are of the logits before all that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    n: int = Field(default=1, ge=1, le=1024)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    max_tokens: int | None = Field(default=16, ge=1)
    min_tokens: int = Field(default=0, ge=0)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    logprobs: int | None = Field(default=None, ge=0)
    prompt_logprobs: int | None = Field(default=None, ge=0)
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    detokenize: bool = True

    @field_validator("stop")
    @classmethod
    def _stop_has_text(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if stop is not None and (stop == "" or "" in list(stop)):
            raise ValueError("should not hold an empty string")
        return stop

    @model_validator(mode="after")
    def _fields_agree(self) -> SamplingParams:
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens should be at most max_tokens={self.max_tokens}, got {self.min_tokens}")
        if self.stop and not self.detokenize:
            raise ValueError("stop needs detokenize=True: stop strings are searched in text")
        return self

    # The last validator is the outermost: it sees the mistakes of those above.
    @model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, data: Any, handler: ModelWrapValidatorHandler[SamplingParams]) -> SamplingParams:
        try:
            return handler(data)
        except ValidationError as error:
            raise RequestError(explain(error, cls.model_fields)) from None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple, empty when there are none."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def has_penalties(self) -> bool:
        """Whether the choice of a token depends on the tokens before it."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

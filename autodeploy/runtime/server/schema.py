"""The requests that OpenAI's API knows: what we serve of them, and what we refuse by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from autodeploy.errors import RequestError, UnsupportedError
from autodeploy.runtime.prompts import Prompt
from autodeploy.runtime.sampling_params import SamplingParams

Neutral = Mapping[str, tuple[Any, ...]]
NOTHING: tuple[Any, ...] = (None, [], {}, False)


UNSUPPORTED_IN_CHAT = (
    "tools",
    "functions",
    "function_call",
    "audio",
    "prediction",
    "web_search_options",
    "reasoning_effort",
    "verbosity",
    "store",
    "metadata",
)


def _encodable(text: str) -> str:
    """JSON can spell half a surrogate pair, on which tokenizers fail."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text is not valid Unicode") from error
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Body(BaseModel):
    """A JSON object of a request. `unsupported` names what is only accepted with a value that asks for nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unsupported: ClassVar[Neutral] = MappingProxyType({})

    @model_validator(mode="before")
    @classmethod
    def _refuse_by_name(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, neutral in cls.unsupported.items():
            if name in data and data[name] not in neutral:
                raise UnsupportedError(f"this server does not support {name!r}")
        return {name: value for name, value in data.items() if name not in cls.unsupported}


class StreamOptions(Body):
    """What a stream tells beside the text."""

    unsupported: ClassVar[Neutral] = MappingProxyType({"include_obfuscation": NOTHING})
    include_usage: bool = False


class SamplingBody(Body):
    """What both endpoints share: OpenAI's sampling options, and vLLM's names for those that OpenAI lacks."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    user: str | None = None  # a label for the provider's bookkeeping; it changes no answer
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, **more: Any) -> SamplingParams:
        """The options for the engine; those not given, or null, keep the engine's defaults."""
        given = {name: getattr(self, name) for name in SamplingBody.model_fields if name in SamplingParams.model_fields}
        return SamplingParams(**{name: value for name, value in given.items() if value is not None}, **more)


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") != "text":
            raise UnsupportedError(
                f"this server does not support message parts of type {data.get('type')!r}, only text"
            )
        return data


class Message(Body):
    """A turn of a conversation."""

    unsupported: ClassVar[Neutral] = MappingProxyType(
        dict.fromkeys(("tool_calls", "function_call", "tool_call_id", "audio", "refusal", "annotations"), NOTHING)
    )
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]
    name: str | None = None

    def for_template(self) -> dict[str, str]:
        """The turn as chat templates know it: plain text, and `system` for the newer word `developer`."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        turn = {"role": "system" if self.role == "developer" else self.role, "content": content}
        return turn if self.name is None else {**turn, "name": self.name}


class ChatRequest(SamplingBody):
    """The body of `/v1/chat/completions`."""

    unsupported: ClassVar[Neutral] = MappingProxyType(
        {
            **dict.fromkeys(UNSUPPORTED_IN_CHAT, NOTHING),
            "tool_choice": (None, "none", "auto"),
            "parallel_tool_calls": (None, True, False),
            "response_format": (None, {"type": "text"}),
            "modalities": (None, ["text"]),
            "service_tier": (None, "auto", "default"),
        }
    )
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)

    def params(self) -> SamplingParams:
        """The sampling options; without a limit an answer may fill the model's context."""
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true")
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        # The limit may be null here, which `sampling` would leave to the default.
        return SamplingParams(**{**self.sampling(logprobs=logprobs).model_dump(), "max_tokens": limit})


class CompletionRequest(SamplingBody):
    """The body of `/v1/completions`."""

    unsupported: ClassVar[Neutral] = MappingProxyType({"suffix": (None, ""), "echo": NOTHING, "best_of": (None, 1)})
    prompt: Text | list[Text] | list[int] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=20)

    def prompts(self) -> Sequence[Prompt]:
        """The prompts: a list that starts with a number is one prompt of token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise RequestError("prompt: at least one is expected")
        return [self.prompt] if isinstance(self.prompt[0], int) else list(self.prompt)

    def params(self) -> SamplingParams:
        """The sampling options."""
        return self.sampling(logprobs=self.logprobs)

"""Offline generation: a list of prompts in, a list of outputs out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from autodeploy.errors import RequestError
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.outputs import RequestOutput
from autodeploy.runtime.prompts import Prompt, prompt_list
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.tokenizer import Tokenizer

Message = dict[str, Any]


class LLM:
    """A model that answers prompts in batches."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._num_requests = 0

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Answer each prompt, in order. `sampling_params` is for all prompts, or has one for each.

        Raises `RequestError` if any of the prompts cannot be served, and then answers none.
        """
        listed = prompt_list(prompts)
        if sampling_params is None or isinstance(sampling_params, SamplingParams):
            params = [sampling_params or SamplingParams()] * len(listed)
        else:
            params = list(sampling_params)
        if len(params) != len(listed):
            raise RequestError(
                f"there are {len(listed)} prompts and {len(params)} sampling params: give one, or as many"
            )
        request_ids = [f"llm-{self._num_requests + i}" for i in range(len(listed))]
        self._num_requests += len(listed)
        outputs: dict[str, RequestOutput] = {}
        try:
            for request_id, prompt, one in zip(request_ids, listed, params, strict=True):
                self.engine.add_request(request_id, prompt, one, stream=False)
            while len(outputs) < len(request_ids):
                outputs.update((output.request_id, output) for output in self.engine.step())
        finally:  # a prompt that was refused, or an interrupt, leaves no request of ours behind
            for request_id in request_ids:
                self.engine.abort(request_id)
        return [outputs[request_id] for request_id in request_ids]

    def chat(
        self,
        messages: list[Message] | list[list[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one conversation, or each of a list of them, through the tokenizer's chat template.

        Raises `RequestError` if there is no tokenizer or template, or the template refuses the messages.
        """
        options = {
            "add_generation_prompt": add_generation_prompt,
            "chat_template": chat_template,
            "tools": tools,
            **(chat_template_kwargs or {}),
        }
        conversations: list[Any] = [messages] if messages and isinstance(messages[0], dict) else messages
        prompts: list[Prompt] = [
            chat_token_ids(self.engine.tokenizer, conversation, options) for conversation in conversations
        ]
        return self.generate(prompts, sampling_params)


def chat_token_ids(tokenizer: Tokenizer | None, conversation: list[Any], options: dict[str, Any]) -> list[int]:
    """Token ids of a conversation in the tokenizer's chat template; raises `RequestError` if that cannot be."""
    if not isinstance(conversation, list) or not all(isinstance(message, Mapping) for message in conversation):
        raise RequestError(f"messages are a list of {{'role': …, 'content': …}}, got {conversation!r:.80}")
    if tokenizer is None:
        raise RequestError("chat needs a tokenizer, which this model has not: use generate with prompt_token_ids")
    try:
        text = tokenizer.apply_chat_template(conversation, tokenize=False, **options)
    except (TemplateError, ValueError) as error:  # transformers raises ValueError where there is no template
        raise RequestError(f"the chat template refuses these messages: {error}") from error
    # The template writes the special tokens itself.
    return tokenizer.encode(text, add_special_tokens=False)

"""The options of the runtime."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from autodeploy.errors import RecipeError
from autodeploy.runtime.validation import explain


class RuntimeSettings(BaseModel):
    """What an engine may use; a bad value raises `RecipeError`.

    `max_num_tokens` is the token budget of one step. `prefill_budget`, by default the same, is that of all but those
    in which nobody decodes and the first prompt is longer: in others, requests wait for each other. At most
    `max_batch_size` requests run at once, and never more than the token budget, so that each can decode in every step.
    `num_pages` wins over `cache_bytes`; with neither, the cache takes what the device can spare. `max_model_len` may
    shorten the model's own limit, not extend it. With `overlap`, by default on a GPU, the next step is prepared while
    one runs. `cuda_graphs` replay decode steps there, of the `graph_batch_sizes` if they are given: smaller batches are
    padded to the next.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    page_size: int = Field(default=16, ge=1)
    max_batch_size: int = Field(default=256, ge=1)
    max_num_tokens: int = Field(default=2048, ge=1)
    prefill_budget: int | None = Field(default=None, ge=1)
    num_pages: int | None = Field(default=None, ge=1)
    cache_bytes: int | None = Field(default=None, ge=1)
    prefix_reuse: bool = True
    max_model_len: int | None = Field(default=None, ge=2)
    overlap: bool | None = None
    cuda_graphs: bool = True
    graph_batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, data: Any, handler: ModelWrapValidatorHandler[RuntimeSettings]) -> RuntimeSettings:
        try:
            return handler(data)
        except ValidationError as error:
            raise RecipeError(f"runtime settings: {explain(error, cls.model_fields)}") from None

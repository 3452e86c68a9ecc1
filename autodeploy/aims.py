"""What a workload wants, from which settings follow once a model and a device are known."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Aims(BaseModel):
    """The `plan` section of a recipe.

    `context` is the length in tokens that a request is planned with. A decode step of the largest batch takes at most
    `decode_slowdown` times as long as that of one request, and a step with the largest chunk of a prompt at most
    `chunk_slowdown` times as long as that decode step. Doubling either must gain at least `least_gain` of throughput.
    Sizes of captured steps beside the powers of two are chosen so that padding to the next costs at most `padding` of
    its time. `prompt_tokens` are those of prompts for each new token, of which `--quantize fastest` thinks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: int = Field(default=1024, ge=1)
    decode_slowdown: float = Field(default=4.0, gt=1)
    chunk_slowdown: float = Field(default=3.0, gt=1)
    least_gain: float = Field(default=0.02, ge=0)
    padding: float = Field(default=0.03, gt=0)
    prompt_tokens: float = Field(default=2.0, ge=0)

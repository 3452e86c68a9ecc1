"""How fast a model will be: the steps that a user meets, predicted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from autodeploy.cost import Bound, Fit, StepShape
from autodeploy.planning.estimate import Estimate

PROMPTS = (128, 1024, 4096, 16384)
BATCHES = (1, 8, 64, 256)
CONTEXTS = (1024, 4096, 16384, 65536, 131072)


@dataclass(frozen=True)
class Speed:
    """A predicted figure: `what` takes `milliseconds`, most of them because of `bound`."""

    what: str
    milliseconds: float
    bound: Bound
    tokens_s: float | None = None
    floor_fraction: float | None = None
    """How much of the device's ceiling that is: of its reads, or of its arithmetic."""

    def as_dict(self) -> dict[str, Any]:
        """The figure as JSON data."""
        return asdict(self)


def decode_speeds(estimate: Estimate, max_batch_size: int, context: int, fit: Fit) -> list[Speed]:
    """Decode steps of some batch sizes that fit, each request with `context` tokens in the cache."""
    most = min(max_batch_size, fit.max_batch(context))
    sizes = sorted({*(size for size in BATCHES if size < most), most} - {0})
    return [_decode(estimate, size, context) for size in sizes]


def prompt_speeds(estimate: Estimate, max_num_tokens: int, fit: Fit) -> list[Speed]:
    """First tokens of some prompts that fit."""
    longest = min(estimate.model.spec.max_model_len, fit.cache_tokens)
    return [_prompt(estimate, length, max_num_tokens) for length in PROMPTS if length <= longest]


def batch_table(estimate: Estimate, max_batch_size: int, fit: Fit) -> list[tuple[int, int]]:
    """Lengths of requests, and how many of each run at once: what the cache holds, or the settings allow."""
    longest = estimate.model.spec.max_model_len
    contexts = [*(one for one in CONTEXTS if one < longest), longest]
    return [(one, min(max_batch_size, fit.max_batch(one))) for one in contexts]


def _decode(estimate: Estimate, size: int, context: int) -> Speed:
    shape = StepShape(size, 1, context)
    return _speed(estimate, f"a decode step of {size} x {context:,} tokens", shape, size)


def _prompt(estimate: Estimate, length: int, max_num_tokens: int) -> Speed:
    last = StepShape(1, min(length, max_num_tokens), length)
    whole = estimate.first_token_seconds(length, max_num_tokens)
    return Speed(f"the first token after {length:,}", 1e3 * whole, estimate.step(last).bound)


def _speed(estimate: Estimate, what: str, shape: StepShape, new_tokens: int) -> Speed:
    step, cost = estimate.step(shape), estimate.model.cost(shape)
    precision = str(estimate.dtype).removeprefix("torch.")
    floor = max(cost.num_bytes / estimate.pace.read, cost.num_flops / estimate.pace.rate(precision))
    return Speed(what, 1e3 * step.seconds, step.bound, new_tokens / step.seconds, min(1.0, floor / step.seconds))

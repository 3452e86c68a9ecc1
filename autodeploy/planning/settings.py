"""Settings that follow from a workload's aims, a model and a device, each with the sentence that says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from autodeploy.aims import Aims
from autodeploy.cost import StepShape
from autodeploy.layers import COST_MODEL, Choice, Origin
from autodeploy.planning.estimate import Estimate
from autodeploy.runtime.settings import RuntimeSettings

MOST_REQUESTS, LEAST_TOKENS, MOST_TOKENS = 1024, 64, 8192


@dataclass(frozen=True)
class Chosen:
    """A value and the reason for it."""

    value: Any
    reason: str


def plan_batch(estimate: Estimate, aims: Aims, workload: str) -> tuple[Choice, ...]:
    """How many requests run at once; nothing for a model that does not fit on the device, or for the CPU.

    The CPU's figures are round, so its recipe says what has been found to serve.
    """
    if estimate.gpu.is_cpu or not estimate.fit(1, LEAST_TOKENS).fits:
        return ()
    return (_choice("max_batch_size", choose_batch(estimate, aims), workload),)


def plan_steps(estimate: Estimate, aims: Aims, workload: str, batch_size: int) -> tuple[Choice, ...]:
    """The rest of what `plan_batch` begins: the steps of so many requests as the batch has come to be."""
    chunk = choose_chunk(estimate, aims, batch_size)
    chosen = {
        "max_num_tokens": choose_tokens(estimate, aims, batch_size, chunk.value),
        "prefill_budget": chunk,
        "graph_batch_sizes": choose_sizes(estimate, aims, batch_size),
    }
    return tuple(_choice(key, one, workload) for key, one in chosen.items())


def _choice(key: str, one: Chosen, workload: str) -> Choice:
    return Choice(f"runtime.{key}", one.value, Origin(COST_MODEL, f"workload {workload}", one.reason))


def plan_tuning(settings: RuntimeSettings, workload: str) -> Choice:
    """How far kernels are tuned: to the rows that steps have under `settings`."""
    most = settings.max_num_tokens
    reason = f"no step has more rows than the {most:,} of runtime.max_num_tokens, so none is timed"
    return Choice("passes.tune_kernels.max_rows", most, Origin(COST_MODEL, f"workload {workload}", reason))


def choose_batch(estimate: Estimate, aims: Aims) -> Chosen:
    """The most requests that run at once."""
    context = min(aims.context, estimate.model.spec.max_model_len)
    alone = estimate.decode_seconds(1, context)

    def limit(size: int) -> str | None:
        room = estimate.fit(size, LEAST_TOKENS).max_batch(context)
        if room < size:
            return f"the cache holds {room} requests of {context:,} tokens"
        step = estimate.decode_seconds(size, context)
        if step > aims.decode_slowdown * alone:
            return f"a step of {size} would take {_ms(step)}, {step / alone:.1f} times that of one request"
        return _too_little(estimate.decode_seconds(size // 2, context) * 2, step, size, aims)

    size, reason = _largest(1, MOST_REQUESTS, limit)
    step = estimate.decode_seconds(size, context)
    return Chosen(size, f"a decode step takes {_ms(step)}, of one request {_ms(alone)}; {reason}")


def choose_chunk(estimate: Estimate, aims: Aims, batch_size: int) -> Chosen:
    """The token budget of a step in which requests decode: what prompts add to the time of everybody's next token."""
    context = min(aims.context, estimate.model.spec.max_model_len)
    decode = estimate.decode_seconds(batch_size, context)

    def limit(tokens: int) -> str | None:
        step = _prompt_seconds(estimate, tokens, context)
        if step > aims.chunk_slowdown * decode:
            return f"{tokens:,} would take {_ms(step)}, {step / decode:.1f} times a decode step"
        twice = 2 * _prompt_seconds(estimate, tokens // 2, context)
        return _no_room(estimate, batch_size, tokens, context) or _too_little(twice, step, tokens, aims)

    tokens, reason = _largest(LEAST_TOKENS, MOST_TOKENS, limit)
    tokens = max(tokens, batch_size)  # each request that runs must get its token
    step = _ms(_prompt_seconds(estimate, tokens, context))
    return Chosen(tokens, f"a step with so much of prompts takes {step}; {reason}")


def choose_tokens(estimate: Estimate, aims: Aims, batch_size: int, chunk: int) -> Chosen:
    """The tokens of the largest step: where nobody decodes, cutting a prompt only makes it slower."""
    context = min(aims.context, estimate.model.spec.max_model_len)
    tokens, reason = _largest(chunk, MOST_TOKENS, lambda tokens: _no_room(estimate, batch_size, tokens, context))
    step = _ms(_prompt_seconds(estimate, tokens, context))
    return Chosen(tokens, f"where nobody decodes, so much of prompts takes {step} in one step; {reason}")


def _prompt_seconds(estimate: Estimate, tokens: int, context: int) -> float:
    """A step of prompts of `context` tokens, of which more than one may share it."""
    requests = max(1, tokens // context)
    length = min(tokens // requests, estimate.model.spec.max_model_len)
    return estimate.step(StepShape(requests, length, length)).seconds


def choose_sizes(estimate: Estimate, aims: Aims, batch_size: int) -> Chosen:
    """The batch sizes whose decode steps are captured. Padding attends to nothing; the rest is what it costs.

    Powers of two are what people run and measure, and the small ones have kernels tuned for them: none is padded.
    """
    powers = {batch_size, *_doublings(1, batch_size)}
    steps = {size: estimate.decode_seconds(size, 1) for size in powers.union(_between(batch_size))}
    kept = [batch_size]
    for size in sorted(steps, reverse=True)[1:]:
        if size in powers or steps[kept[-1]] > (1 + aims.padding) * steps[size]:
            kept.append(size)
    more = f" and {len(kept) - len(powers)} between" if len(kept) > len(powers) else ""
    reason = f"powers of two{more}: padding to the next size costs at most about {aims.padding:.0%} of a step"
    return Chosen(tuple(sorted(kept)), reason)


def _between(most: int) -> tuple[int, ...]:
    """Batch sizes beside the powers of two that are worth a look: the fewer rows there are, the more one counts."""
    sizes = (*range(16, 64, 8), *range(64, 256, 16), *range(256, MOST_REQUESTS, 64))
    return tuple(one for one in sizes if one < most)


def _largest(least: int, most: int, limit: Callable[[int], str | None]) -> tuple[int, str]:
    """The largest doubling of `least` up to `most` that nothing limits, and what limits the next."""
    size = least
    for doubled in _doublings(2 * least, most):
        reason = limit(doubled)
        if reason is not None:
            return size, reason
        size = doubled
    return size, "more is never planned"


def _doublings(first: int, most: int) -> Iterator[int]:
    while first <= most:
        yield first
        first *= 2


def _no_room(estimate: Estimate, batch_size: int, tokens: int, context: int) -> str | None:
    """The reason against steps of so many tokens, when the cache would no longer hold the batch beside them."""
    fits = estimate.fit(batch_size, tokens).max_batch(context) >= batch_size
    return None if fits else f"the activations of {tokens:,} would take the cache's memory"


def _too_little(twice: float, once: float, size: int, aims: Aims) -> str | None:
    """The reason against doubling to `size`, when two steps of half of it take hardly longer."""
    gain = twice / once - 1
    return f"{size:,} would gain {gain:.1%} of throughput" if gain < aims.least_gain else None


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"

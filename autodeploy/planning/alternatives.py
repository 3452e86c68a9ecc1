"""What a plan could have been, and why it is not: formats of weights, batches, prompts, graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from autodeploy.cost import Fit, StepShape
from autodeploy.planning.estimate import Estimate
from autodeploy.planning.formats import OFFERED, in_scheme, saved_bytes, why_not
from autodeploy.runtime.settings import RuntimeSettings

LAUNCH_SECONDS = 6e-6  # a kernel's launch from Python, on a host of ordinary speed


@dataclass(frozen=True)
class Alternative:
    """A choice that was not made. It is `possible` when a user who wants it may ask for it."""

    what: str
    possible: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """The alternative as JSON data."""
        return asdict(self)


def too_large(estimate: Estimate, fit: Fit) -> tuple[Alternative, ...]:
    """What a model that does not fit would need: other formats of its weights, or more devices."""
    need = (
        f"its weights take {fit.weights / 1e9:.1f} GB{_of_experts(estimate)}, and {fit.capacity / 1e9:.0f} GB are there"
    )
    count = fit.num_devices
    more = f"the weights alone need {count} such devices" if count > 1 else "the weights fit, and nothing beside them"
    return (Alternative(f"one {estimate.gpu.name}", False, f"{need}; {more}"), *_smaller(estimate, fit))


def _of_experts(estimate: Estimate) -> str:
    size = estimate.expert_bytes()
    return f", of which {size / 1e9:.1f} are of experts, which --quantize leaves as they are," if size else ""


def _smaller(estimate: Estimate, fit: Fit) -> Iterator[Alternative]:
    if _is_narrow(estimate):
        return
    for one in OFFERED:
        reason = why_not(estimate.gpu, one)
        smaller = replace(fit, weights=fit.weights - saved_bytes(estimate, one))
        verdict = f"the weights would take {smaller.weights / 1e9:.1f} GB{_still_lacks(smaller)}"
        yield Alternative(f"--quantize {one}", reason is None and smaller.fits, reason or verdict)


def _still_lacks(fit: Fit) -> str:
    if fit.fits:
        return ""
    return (
        f", for which {fit.num_devices} such devices are needed" if fit.num_devices > 1 else ", and nothing beside them"
    )


def _is_narrow(estimate: Estimate) -> bool:
    """Whether projections are quantized already."""
    return any(one.is_narrow for one in estimate.model.works(StepShape(1, 1, 1)))


def reject(estimate: Estimate, settings: RuntimeSettings, context: int) -> tuple[Alternative, ...]:
    """Everything that was not chosen for a model that fits."""
    return (
        *_formats(estimate, settings, context),
        *_caches(estimate, settings),
        *_dtypes(estimate, context),
        *_sizes(estimate, settings, context),
        *_launches(estimate, settings, context),
    )


def _formats(estimate: Estimate, settings: RuntimeSettings, context: int) -> Iterator[Alternative]:
    sizes = sorted({1, min(settings.max_batch_size, 64)})
    if estimate.gpu.is_cpu or _is_narrow(estimate):
        return
    for one in OFFERED:
        reason = why_not(estimate.gpu, one)
        gain = _gain(estimate, one, sizes, context) if reason is None else ""
        yield Alternative(f"--quantize {one}", reason is None, reason or gain)


def _caches(estimate: Estimate, settings: RuntimeSettings) -> Iterator[Alternative]:
    caches = estimate.model.spec.caches
    if estimate.gpu.is_cpu or not caches or any(one.dtype.itemsize == 1 for one in caches):
        return
    reason = why_not(estimate.gpu, "fp8_weights")
    fit = estimate.fit(settings.max_batch_size, settings.max_num_tokens)
    narrow = replace(fit, cache_per_token=fit.cache_per_token / estimate.dtype.itemsize)
    room = (
        f"the cache would hold {narrow.cache_tokens:,} tokens in place of {fit.cache_tokens:,};"
        " it changes the numbers, so it is done only when asked for"
    )
    yield Alternative("--kv-cache fp8", reason is None, reason or room)


def _gain(estimate: Estimate, scheme: str, sizes: Iterable[int], context: int) -> str:
    steps = []
    for size in sizes:
        shape = StepShape(size, 1, context)
        before, after = estimate.step(shape), in_scheme(estimate, shape, scheme)
        steps.append(f"{gain_of(before.seconds / after.seconds)} at batch {size}")
    return (
        f"decode would be {' and '.join(steps)}, and {saved_bytes(estimate, scheme) / 1e9:.1f} GB of weights less;"
        " it changes the numbers, so it is done only when asked for"
    )


def _dtypes(estimate: Estimate, context: int) -> Iterator[Alternative]:
    gpu = estimate.gpu
    if "bf16" not in gpu.tflops:
        yield Alternative("--dtype bf16", False, f"{gpu.name} computes no bf16; fp16 has the same size and less range")
    if estimate.dtype is not torch.float32:
        shape = StepShape(1, 1, context)
        wider = estimate.step(shape).seconds + estimate.model.cost(shape).num_bytes / estimate.pace.read
        yield Alternative("--dtype fp32", True, f"twice the bytes: {1e3 * wider:.1f} ms for a decode step")


def _sizes(estimate: Estimate, settings: RuntimeSettings, context: int) -> Iterator[Alternative]:
    size, tokens = settings.max_batch_size, settings.max_num_tokens
    fit = estimate.fit(2 * size, tokens)
    step = estimate.decode_seconds(2 * size, context)
    speed = f"a decode step would take {1e3 * step:.1f} ms, for {2 * size / step:,.0f} tokens a second"
    room = fit.max_batch(context)
    reason = speed if room >= 2 * size else f"the cache holds {room} requests of {context:,} tokens"
    yield Alternative(f"--max-batch {2 * size}", room >= 2 * size, reason)
    longer = estimate.fit(size, 2 * tokens)
    lost = estimate.fit(size, tokens).cache_tokens - longer.cache_tokens
    now, then = (estimate.first_token_seconds(4 * tokens, each) for each in (tokens, 2 * tokens))
    if 4 * tokens <= estimate.model.spec.max_model_len:
        yield Alternative(
            f"--max-tokens {2 * tokens}",
            longer.fits,
            f"a prompt of {4 * tokens:,} would take {1e3 * then:,.0f} ms in place of {1e3 * now:,.0f},"
            f" and the cache would hold {lost:,} tokens less",
        )
    if settings.prefill_budget is not None and settings.prefill_budget < tokens:
        now, then = (estimate.step(StepShape(1, some, some)).seconds for some in (settings.prefill_budget, tokens))
        yield Alternative(
            f"--set runtime.prefill_budget={tokens}",
            True,
            f"prompts would be done sooner where others decode, whose tokens would wait {1e3 * then:,.0f} ms"
            f" in place of {1e3 * now:,.0f}",
        )


def _launches(estimate: Estimate, settings: RuntimeSettings, context: int) -> Iterator[Alternative]:
    if estimate.gpu.is_cpu or not settings.cuda_graphs:
        return
    step = estimate.step(StepShape(1, 1, context))
    kernels = sum(one.work.times for one in step.operators)
    yield Alternative(
        "--capture none",
        True,
        f"without CUDA graphs the host launches about {kernels:.0f} kernels a step,"
        f" {1e3 * kernels * LAUNCH_SECONDS:.1f} ms where the GPU needs {1e3 * step.seconds:.1f} for one request",
    )


def gain_of(factor: float) -> str:
    """How a step that takes `1 / factor` of the time is told."""
    if 0.95 < factor < 1.05:
        return "as fast as now"
    return f"{factor:.1f} times as fast" if factor > 1 else f"{1 / factor:.1f} times slower"

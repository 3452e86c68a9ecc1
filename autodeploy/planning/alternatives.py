"""What a plan could have been, and why it is not: formats of weights, batches, prompts, graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from autodeploy.cost import Fit, Step, StepShape, Work
from autodeploy.hardware import FEATURES, Gpu
from autodeploy.planning.estimate import Estimate
from autodeploy.runtime.settings import RuntimeSettings

CROWD = 4096  # tokens of a step that meets every expert
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


@dataclass(frozen=True)
class Format:
    """A format of weights: bits of each with its share of the scales, and the dtype that it is multiplied in."""

    name: str
    bits: float
    arithmetic: str | None
    """None where weights are widened as they are read."""
    feature: str | None
    instead: str


FORMATS = (
    Format("fp8", 8.0, "float8_e4m3fn", "fp8", "int8 weights take as little room, int4 half of it"),
    Format("int4", 4.25, None, None, ""),
    Format("nvfp4", 4.5, None, "fp4", "int4 weights take as little room"),
)


def too_large(estimate: Estimate, fit: Fit) -> tuple[Alternative, ...]:
    """What a model that does not fit would need: other formats of its weights, or more devices."""
    need = f"its weights take {fit.weights / 1e9:.1f} GB, and {fit.capacity / 1e9:.0f} GB are there"
    count = fit.num_devices
    more = f"the weights alone need {count} such devices" if count > 1 else "the weights fit, and nothing beside them"
    return (Alternative(f"one {estimate.gpu.name}", False, f"{need}; {more}"), *_smaller(estimate, fit))


def _smaller(estimate: Estimate, fit: Fit) -> Iterator[Alternative]:
    for one in FORMATS:
        reason = why_not(estimate.gpu, one)
        weights = fit.weights - saved_bytes(estimate, one)
        fits = replace(fit, weights=weights).fits
        verdict = f"the weights would take {weights / 1e9:.1f} GB{'' if fits else ', which is still too much'}"
        yield Alternative(f"--quantize {one.name}", reason is None and fits, reason or verdict)


def reject(estimate: Estimate, settings: RuntimeSettings, context: int) -> tuple[Alternative, ...]:
    """Everything that was not chosen for a model that fits."""
    return (
        *_formats(estimate, settings, context),
        *_dtypes(estimate, context),
        *_sizes(estimate, settings, context),
        *_launches(estimate, settings, context),
    )


def why_not(gpu: Gpu, format_: Format) -> str | None:
    """The reason why a device cannot compute with weights in a format, with what it can do; None when it can."""
    if format_.feature is None or gpu.is_cpu or format_.feature in gpu.features:
        return None
    major, minor = gpu.compute_capability or (0, 0)
    since = ".".join(map(str, FEATURES[format_.feature]))
    return (
        f"{gpu.name} (compute capability {major}.{minor}) has no {format_.feature} units, which came with {since};"
        f" {format_.instead}"
    )


def _formats(estimate: Estimate, settings: RuntimeSettings, context: int) -> Iterator[Alternative]:
    sizes = sorted({1, min(settings.max_batch_size, 64)})
    if estimate.gpu.is_cpu or any(one.is_narrow for one in estimate.model.works(StepShape(1, 1, context))):
        return
    for one in FORMATS:
        reason = why_not(estimate.gpu, one)
        gain = _gain(estimate, one, sizes, context) if reason is None else ""
        yield Alternative(f"--quantize {one.name}", reason is None, reason or gain)


def _gain(estimate: Estimate, format_: Format, sizes: Iterable[int], context: int) -> str:
    steps = []
    for size in sizes:
        shape = StepShape(size, 1, context)
        before, after = estimate.step(shape), in_format(estimate, shape, format_)
        steps.append(f"{_times(before.seconds / after.seconds)} at batch {size}")
    return (
        f"decode would be {' and '.join(steps)}, and {saved_bytes(estimate, format_) / 1e9:.1f} GB of weights less;"
        " it changes the numbers, so it is done only when asked for"
    )


def in_format(estimate: Estimate, shape: StepShape, format_: Format) -> Step:
    """The step if every projection but the head had its weights in a format."""
    works = [_requantized(one, format_) for one in estimate.model.works(shape)]
    return estimate.pace.step(works, shape.num_requests)


def saved_bytes(estimate: Estimate, format_: Format) -> float:
    """What the weights of a model would lose in a format."""
    return sum(_saved(one, format_) for one in estimate.model.works(StepShape(1, CROWD, CROWD)))


def _requantized(work: Work, format_: Format) -> Work:
    if not _is_quantizable(work):
        return work
    weights = {name: size * format_.bits / 16 for name, size in work.weight_bytes.items()}
    return replace(work, weight_bytes=weights, precision=format_.arithmetic or work.precision, is_narrow=True)


def _saved(work: Work, format_: Format) -> float:
    return sum(work.weight_bytes.values()) * work.times * (1 - format_.bits / 16) if _is_quantizable(work) else 0.0


def _is_quantizable(work: Work) -> bool:
    """A projection of a layer, in 16 bits: the head stays as it is, whose rounding every token would show."""
    head = work.module is not None and "head" in work.module.rpartition(".")[2]
    return work.kind in ("matmul", "experts") and not work.is_narrow and not head


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
            f"a prompt of {4 * tokens:,} would take {1e3 * then:.0f} ms in place of {1e3 * now:.0f},"
            f" others' tokens would wait twice as long, and the cache would hold {lost:,} tokens less",
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


def _times(factor: float) -> str:
    return f"{factor:.1f} times as fast" if factor >= 1 else f"{1 / factor:.1f} times slower"

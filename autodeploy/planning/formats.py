"""Which schemes of quantization a device can compute with, and what they would make of a model's steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from autodeploy.aims import Aims
from autodeploy.choosing import Recipe
from autodeploy.cost import Step, StepShape, Work
from autodeploy.errors import UnsupportedError
from autodeploy.hardware import FEATURES, Gpu
from autodeploy.planning.estimate import Estimate
from autodeploy.quantization import SCHEMES, Scheme, name_of
from autodeploy.quantization.option import scheme_of_option

OFFERED = ("fp8", "int8", "int4", "nvfp4")
"""The schemes that a plan compares with."""

LEAST_GAIN = 0.05
"""Of a step's time, for which `fastest` rounds weights at all."""

SCALE_BITS = 16
ARITHMETIC = {"fp8": "float8_e4m3fn", "int8": "int8"}


def why_not(gpu: Gpu, name: str) -> str | None:
    """Why a device cannot compute in the scheme called `name`, with what it can do; None when it can."""
    return _lacks(gpu, scheme_of_option(name))


def _lacks(gpu: Gpu, scheme: Scheme) -> str | None:
    feature = _needs(scheme)
    if feature is None or gpu.is_cpu or feature in gpu.features:
        return None
    major, minor = gpu.compute_capability or (0, 0)
    since = ".".join(map(str, FEATURES[feature]))
    able = [one for one in OFFERED if (need := _needs(SCHEMES[one])) is None or need in gpu.features]
    return (
        f"{gpu.name} (compute capability {major}.{minor}) has no {feature} units, which came with {since};"
        f" {' and '.join(able)} run there"
    )


def refuse_scheme(gpu: Gpu, name: str | None) -> None:
    """Raise UnsupportedError for a scheme that a device cannot compute in."""
    reason = None if name is None else why_not(gpu, name)
    if reason is not None:
        raise UnsupportedError(f"--quantize {name}: {reason}")


def refuse_recipe(gpu: Gpu, recipe: Recipe) -> None:
    """Raise UnsupportedError for a recipe with a scheme, or a format of the cache, that a device cannot compute in."""
    for key, scheme in _schemes_of(recipe):
        reason = _lacks(gpu, scheme)
        if reason is not None:
            raise UnsupportedError(f"{key}: {reason}")


def _schemes_of(recipe: Recipe) -> Iterator[tuple[str, Scheme]]:
    """What a recipe quantizes to, and the keys that say so."""
    options: dict[str, dict[str, Any]] = {name: one.model_dump() for name, one in recipe.passes}
    precision = options.get("mark_precision", {})
    named = [
        ("scheme", precision.get("scheme", "none")),
        *(("rules", one["scheme"]) for one in precision.get("rules", ())),
    ]
    for key, scheme in named:
        found = SCHEMES[scheme] if isinstance(scheme, str) else Scheme.model_validate(scheme)
        yield f"passes.mark_precision.{key}={name_of(found)}", found
    head = precision.get("head", "none")
    yield f"--quantize-head {head} (passes.mark_precision.head)", SCHEMES[head]
    if options.get("quantize_cache", {}).get("format") == "fp8":
        yield "--kv-cache fp8 (passes.quantize_cache.format)", SCHEMES["fp8_weights"]


@dataclass(frozen=True)
class Fastest:
    """A scheme, and the sentence that says why it is the fastest."""

    scheme: str
    reason: str


def fastest_scheme(estimate: Estimate, aims: Aims, batch_size: int, num_tokens: int) -> Fastest:
    """The scheme, or "none", in which a new token and its share of the prompts are predicted to take least.

    A scheme must gain 5 % over "none". Decode steps are of `batch_size`, steps with prompts of `num_tokens`.
    """
    context = min(aims.context, estimate.model.spec.max_model_len)
    length = min(num_tokens, context)
    decode, chunk = StepShape(batch_size, 1, context), StepShape(max(1, num_tokens // length), length, length)

    def seconds(scheme: str) -> float:
        new, prompt = (in_scheme(estimate, shape, scheme).seconds / shape.total_tokens for shape in (decode, chunk))
        return new + aims.prompt_tokens * prompt

    known = ("none", *(one for one in OFFERED if why_not(estimate.gpu, one) is None))
    times = {one: seconds(one) for one in known}
    best = min(times, key=lambda one: times[one])
    if times[best] > (1 - LEAST_GAIN) * times["none"]:
        best = "none"
    others = ", ".join(f"{name} {1e6 * time:,.1f}" for name, time in times.items() if name != best)
    prompts = f" and {aims.prompt_tokens:g} of prompts" if aims.prompt_tokens else ""
    return Fastest(
        best, f"a new token of {batch_size} at once{prompts} would take {1e6 * times[best]:,.1f} us; in {others}"
    )


def in_scheme(estimate: Estimate, shape: StepShape, name: str) -> Step:
    """The step if every projection but the head and those of experts were quantized so."""
    works = [_requantized(one, SCHEMES[name]) for one in estimate.model.works(shape)]
    return estimate.pace.step(works, shape.num_requests)


def saved_bytes(estimate: Estimate, name: str) -> float:
    """What the weights of a model would lose."""
    works = filter(_is_quantizable, estimate.model.works(StepShape(1, 1, 1)))
    return sum(sum(one.weight_bytes.values()) * one.times for one in works) * (1 - _bits(SCHEMES[name]) / 16)


def _needs(scheme: Scheme) -> str | None:
    """The feature that a scheme rests on: kernels read e4m3, which nvfp4 has for scales, only where it is native."""
    if scheme.weights in ("fp8", "nvfp4"):
        return "fp8"
    return "int8" if scheme.activations != "none" else None


def _bits(scheme: Scheme) -> float:
    """Of a weight, with its share of the scale."""
    return scheme.bits + (SCALE_BITS / scheme.group if scheme.group else 0.0)


def _requantized(work: Work, scheme: Scheme) -> Work:
    if not _is_quantizable(work) or not scheme.is_quantized:
        return work
    weights = {name: size * _bits(scheme) / 16 for name, size in work.weight_bytes.items()}
    if scheme.activations != "none":
        return replace(work, weight_bytes=weights, precision=ARITHMETIC[scheme.weights], is_narrow=True)
    elements = sum(work.weight_bytes.values()) / 2
    return replace(work, weight_bytes=weights, num_decoded=elements, is_narrow=True)


def _is_quantizable(work: Work) -> bool:
    """A projection of a layer, in 16 bits: no scheme is for experts, and each token would show the head's rounding."""
    head = work.module is not None and "head" in work.module.rpartition(".")[2]
    return work.kind == "matmul" and not work.is_narrow and not head

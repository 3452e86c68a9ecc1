"""Which schemes of quantization a device can compute with, and what they would make of a model's steps."""

from __future__ import annotations

from dataclasses import replace

from autodeploy.cost import Step, StepShape, Work
from autodeploy.errors import UnsupportedError
from autodeploy.hardware import FEATURES, Gpu
from autodeploy.planning.estimate import Estimate
from autodeploy.quantization import SCHEMES, Scheme
from autodeploy.quantization.option import scheme_of_option

OFFERED = ("fp8", "int8", "int4", "nvfp4")
"""The schemes that a plan compares with."""

CROWD = 4096  # tokens of a step that meets every expert
SCALE_BITS = 16
ARITHMETIC = {"fp8": "float8_e4m3fn", "int8": "int8"}


def why_not(gpu: Gpu, name: str) -> str | None:
    """Why a device cannot compute in the scheme called `name`, with what it can do; None when it can."""
    feature = _needs(scheme_of_option(name))
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


def in_scheme(estimate: Estimate, shape: StepShape, name: str) -> Step:
    """The step if every projection but the head were quantized so."""
    works = [_requantized(one, SCHEMES[name]) for one in estimate.model.works(shape)]
    return estimate.pace.step(works, shape.num_requests)


def saved_bytes(estimate: Estimate, name: str) -> float:
    """What the weights of a model would lose."""
    works = filter(_is_quantizable, estimate.model.works(StepShape(1, CROWD, CROWD)))
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
    if not _is_quantizable(work):
        return work
    weights = {name: size * _bits(scheme) / 16 for name, size in work.weight_bytes.items()}
    precision = work.precision if scheme.activations == "none" else ARITHMETIC[scheme.weights]
    return replace(work, weight_bytes=weights, precision=precision, is_narrow=True)


def _is_quantizable(work: Work) -> bool:
    """A projection of a layer, in 16 bits: the head stays as it is, whose rounding every token would show."""
    head = work.module is not None and "head" in work.module.rpartition(".")[2]
    return work.kind in ("matmul", "experts") and not work.is_narrow and not head

"""How long work takes on a device: its ceilings, and how much of them operators reach.

The fractions were fitted to what an H200 did (`benchmarks/results/h200_*.json`, `kernels_h200*.json`) and are taken to
hold on other GPUs, whose own ceilings they scale: the operators are the same, and what they miss is mostly latency.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from autodeploy.cost.work import Kind, Work
from autodeploy.hardware import Gpu, Precision

Bound = Literal["memory", "compute", "launches"]

PRECISIONS: Mapping[str, Precision] = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
    "int8": "int8",
}
"""What the arithmetic on a dtype of torch is called in the files of GPUs."""

READ_SHARE = 0.915  # of a datasheet's bandwidth: 4,390 GB/s read of 4,800
MATMUL_SHARES: Mapping[Precision, float] = {"fp8": 0.65, "fp4": 0.65, "int8": 0.65}  # 1,292 TFLOP/s of 1,979
DENSE_SHARE = 0.80  # 796 TFLOP/s of 989, for the others
CPU_SHARE = 0.65

COMPUTE: Mapping[Kind, float] = {"matmul": 0.92, "experts": 0.6, "attention": 0.54, "rows": 1.0}
"""Of the matmul ceiling, for the shapes that models have."""
NARROW_READ = 0.92
"""Of the read ceiling, for weights of 8 bits or fewer, which kernels unpack as they stream them."""
DECODED = 0.33
"""Of the matmul ceiling, for weights that kernels widen to 16 bits in registers: some 220 TFLOP/s in place of 730."""
DECODING = 15.0
"""Operations in fp32 whose time widening one element takes: 4.5e12 elements a second, of any number of bits."""
ATTENTION_READ = 0.8
"""Of the read ceiling, for a cache in pages."""
SHARPNESS = 1.7
"""Reading and computing overlap, less so the closer they are: (r^p + c^p)^(1/p). 1 is one after the other."""


@dataclass(frozen=True)
class Latencies:
    """Seconds that do not depend on sizes: of each kernel's start and end by kind, and of the host.

    The host prepares a step in `step` and `request` for each; of that a GPU waits for `exposed`, while it computes the
    one before.
    """

    kernels: Mapping[Kind, float]
    request: float
    step: float
    exposed: float
    arrival: float
    """Of a new request, until its first step and back."""


GPU = Latencies(
    {"matmul": 2.0e-6, "experts": 6.0e-6, "attention": 11.0e-6, "rows": 2.0e-6}, 4.5e-6, 0.45e-3, 30e-6, 0.5e-3
)
"""A boundary inside a CUDA graph is 1 us, and memory needs another to reach its rate; attention is three kernels."""
CPU = Latencies({"matmul": 10e-6, "experts": 40e-6, "attention": 20e-6, "rows": 6e-6}, 20e-6, 0.4e-3, 0.4e-3, 1e-3)


@dataclass(frozen=True)
class Timed:
    """Work with the seconds that all of its calls take, and what most of them go to."""

    work: Work
    seconds: float
    bound: Bound


@dataclass(frozen=True)
class Step:
    """A predicted step: its seconds, what bounds it, and the operators in order. What they leave is the host's."""

    seconds: float
    bound: Bound
    operators: tuple[Timed, ...]


@dataclass(frozen=True)
class Pace:
    """What a device reaches: bytes read, operations and elements decoded a second, and its latencies."""

    read: float
    flops: Mapping[Precision, float]
    decoding: float
    latencies: Latencies

    @classmethod
    def of(cls, gpu: Gpu) -> Pace:
        """From what was measured on such a device, or else from shares of its datasheet."""
        share = CPU_SHARE if gpu.is_cpu else DENSE_SHARE
        flops = {name: value * MATMUL_SHARES.get(name, share) for name, value in gpu.tflops.items()}
        read = gpu.bandwidth_gb_s * READ_SHARE
        if gpu.measured is not None:
            flops |= gpu.measured.tflops
            read = gpu.measured.read_gb_s
        rates = {name: value * 1e12 for name, value in flops.items()}
        if gpu.is_cpu:  # it multiplies 8 bits as they are
            return cls(read * 1e9, rates, math.inf, CPU)
        return cls(read * 1e9, rates, gpu.tflops.get("fp32", min(gpu.tflops.values())) * 1e12 / DECODING, GPU)

    def measured(self, read_gb_s: float, tflops: float, dtype: str) -> Pace:
        """The same with ceilings that were measured now, of matmuls in a dtype of torch."""
        return replace(self, read=read_gb_s * 1e9, flops={**self.flops, PRECISIONS[dtype]: tflops * 1e12})

    def time(self, work: Work) -> Timed:
        """The time of an operator."""
        reading = max(work.num_bytes / (self.read * _read_share(work)), work.num_decoded / self.decoding)
        decoded = DECODED if work.num_decoded else 1.0
        computing = work.num_flops / (self.rate(work.precision) * COMPUTE[work.kind] * decoded)
        latency = self.latencies.kernels[work.kind]
        seconds = latency + (reading**SHARPNESS + computing**SHARPNESS) ** (1 / SHARPNESS)
        return Timed(work, seconds * work.times, _bound(reading, computing, latency))

    def step(self, works: Iterable[Work], num_requests: int) -> Step:
        """The time of a step of `num_requests`, whose operators run one after the other."""
        timed = tuple(map(self.time, works))
        seconds = {bound: sum(one.seconds for one in timed if one.bound == bound) for bound in _BOUNDS}
        device = sum(seconds.values()) + self.latencies.exposed
        host = self.latencies.step + num_requests * self.latencies.request
        if host > device:
            return Step(host, "launches", timed)
        return Step(device, max(_BOUNDS, key=lambda bound: seconds[bound]), timed)

    def rate(self, precision: str) -> float:
        """Operations a second in a dtype of torch; one that the device has no units for takes the slowest of others."""
        return self.flops.get(PRECISIONS.get(precision, "fp32"), min(self.flops.values()))


def _read_share(work: Work) -> float:
    return NARROW_READ if work.is_narrow else ATTENTION_READ if work.kind == "attention" else 1.0


_BOUNDS: tuple[Bound, ...] = ("memory", "compute", "launches")


def _bound(reading: float, computing: float, latency: float) -> Bound:
    seconds: dict[Bound, float] = {"memory": reading, "compute": computing, "launches": latency}
    return max(_BOUNDS, key=lambda bound: seconds[bound])

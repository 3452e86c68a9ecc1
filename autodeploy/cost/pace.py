"""How long work takes on a device, from its ceilings and what operators reach of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from autodeploy.cost.reach import CPU, GPU, REACH, Latencies, Reach
from autodeploy.cost.work import Work
from autodeploy.hardware import PRECISIONS, Gpu, Precision

Bound = Literal["memory", "compute", "launches"]

READ_SHARE = 0.915  # of a datasheet's bandwidth: 4,390 GB/s read of 4,800
MATMUL_SHARES: Mapping[Precision, float] = {"fp8": 0.65, "fp4": 0.65, "int8": 0.65}  # 1,292 TFLOP/s of 1,979
DENSE_SHARE = 0.80  # 796 TFLOP/s of 989, for the others
CPU_SHARE = 0.65
FEW_ROWS = 16.0  # operations for each byte of a weight: as many as 8 rows have in 8 bits


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
    reach: Reach = REACH

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
        return cls(read * 1e9, rates, gpu.tflops.get("fp32", min(gpu.tflops.values())) * 1e12 / REACH.decoding, GPU)

    def measured(self, read_gb_s: float, tflops: float, dtype: str) -> Pace:
        """The same with ceilings that were measured now, of matmuls in a dtype of torch."""
        return replace(self, read=read_gb_s * 1e9, flops={**self.flops, PRECISIONS[dtype]: tflops * 1e12})

    def time(self, work: Work) -> Timed:
        """The time of an operator."""
        reach, latency = self.reach, self.latencies.kernels[work.kind]
        if work.kind == "matmul" and work.num_flops > FEW_ROWS * sum(work.weight_bytes.values()):
            latency += self.latencies.many_rows
        read = self.read * (reach.paged_read if work.kind == "attention" else 1.0)
        reading = max(work.num_bytes / read, work.num_decoded / self.decoding)
        computing = work.num_flops / (self.rate(work.precision) * reach.share(work))
        seconds = latency + (reading**reach.sharpness + computing**reach.sharpness) ** (1 / reach.sharpness)
        return Timed(work, seconds * work.times, _bound(reading, computing, latency))

    def step(self, works: Iterable[Work], num_requests: int) -> Step:
        """The time of a step of `num_requests`, whose operators run one after the other."""
        timed = tuple(map(self.time, works))
        seconds = {bound: sum(one.seconds for one in timed if one.bound == bound) for bound in _BOUNDS}
        host = self.latencies
        device = sum(seconds.values()) + host.exposed + num_requests * host.exposed_request
        prepared = host.step + num_requests * host.request
        if prepared > device:
            return Step(prepared, "launches", timed)
        return Step(device, max(_BOUNDS, key=lambda bound: seconds[bound]), timed)

    def rate(self, precision: str) -> float:
        """Operations a second in a dtype of torch; one that the device has no units for takes the slowest of others."""
        return self.flops.get(PRECISIONS.get(precision, "fp32"), min(self.flops.values()))


_BOUNDS: tuple[Bound, ...] = ("memory", "compute", "launches")


def _bound(reading: float, computing: float, latency: float) -> Bound:
    seconds: dict[Bound, float] = {"memory": reading, "compute": computing, "launches": latency}
    return max(_BOUNDS, key=lambda bound: seconds[bound])

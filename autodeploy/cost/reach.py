"""What operators reach of a device's ceilings, and the seconds that they take besides.

Shares and latencies of a GPU are those of `benchmarks/fit_pace.py`, fitted to decode steps of an H200
(`benchmarks/results/h200_decode_*.json`), but for those that say where else they come from. They are taken to hold on
other GPUs, whose own ceilings they scale: the operators are the same, and what they miss is mostly latency.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autodeploy.cost.work import Kind, Work

EIGHT_BITS = ("float8_e4m3fn", "int8")


@dataclass(frozen=True)
class Reach:
    """Shares of ceilings, for the shapes that models have."""

    compute: Mapping[Kind, float]
    """Of the matmul ceiling, in 16 bits and more."""
    scaled: float
    """Of that of 8 bits, for products of two operands of 8 bits."""
    decoded: float
    """Of the matmul ceiling, for weights that kernels widen to 16 bits in registers: int4 by 64 rows, timed alone."""
    decoding: float
    """Operations in fp32 whose time widening one element takes, of any number of bits: int4 by one row, timed alone."""
    paged_read: float
    """Of the read ceiling, for a cache in pages. Weights are read at the ceiling, whatever their width."""
    sharpness: float
    """Reading and computing overlap, less so the closer they are: (r^p + c^p)^(1/p). 1 is one after the other."""

    def share(self, work: Work) -> float:
        """How much of the ceiling of its precision an operator computes at."""
        if work.num_decoded:
            return self.decoded
        return self.scaled if work.precision in EIGHT_BITS else self.compute[work.kind]


@dataclass(frozen=True)
class Latencies:
    """Seconds that do not depend on sizes: of each kernel by kind, and of the host.

    A kernel's are those until it reads at its rate, less what overlaps with the kernel before it. The host prepares a
    step in `step` and `request` for each; of that a GPU waits for `exposed` and `exposed_request`, while it computes
    the one before.
    """

    kernels: Mapping[Kind, float]
    many_rows: float
    """More of a matmul of more than few rows: theirs has asked for weights before its inputs are there."""
    request: float
    step: float
    exposed: float
    exposed_request: float
    arrival: float
    """Of a new request, until its first step and back."""


REACH = Reach(
    compute={"matmul": 0.958, "experts": 0.6, "attention": 0.54, "rows": 1.0},
    scaled=0.973,
    decoded=0.35,
    decoding=12.0,
    paged_read=0.823,
    sharpness=1.61,
)
"""`attention` is that of prompts, `experts` a guess: neither was in a step that was measured."""
GPU = Latencies(
    kernels={"matmul": 0.617e-6, "experts": 6e-6, "attention": 3.284e-6, "rows": 1.763e-6},
    many_rows=3.031e-6,
    request=4.5e-6,
    step=0.45e-3,
    exposed=22.112e-6,
    exposed_request=0e-6,
    arrival=0.5e-3,
)
"""Attention is three kernels, of which each waits for what the one before wrote to the cache. `request`, `step` and
`arrival` are the host's, as profiles show them."""
CPU = Latencies(
    kernels={"matmul": 10e-6, "experts": 40e-6, "attention": 20e-6, "rows": 6e-6},
    many_rows=0.0,
    request=20e-6,
    step=0.4e-3,
    exposed=0.4e-3,
    exposed_request=0.0,
    arrival=1e-3,
)

"""Timing CUDA kernels: replayed graphs over rotating buffers, so that neither the host nor the L2 is measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Call = Callable[[], object]

ROTATION = 4 << 30  # bytes at least: the L2 of an H200 keeps a hundredth of it from one replay to the next
MOST_BUFFERS = 128
REPLAYS = 15


@dataclass(frozen=True)
class Variant:
    """One way to do a case: a call for each of its buffers, all of the same work."""

    name: str
    calls: Sequence[Call]


@dataclass(frozen=True)
class Case:
    """A kernel at a shape: what it must move or compute, what it must give, and the ways to do it."""

    kernel: str
    shape: str
    variants: Sequence[Variant]
    size: int = 0
    flops: int = 0
    expected: Callable[[], Tensor] | None = None
    tolerance: float = 1e-2


@dataclass(frozen=True)
class Measurement:
    """The median time of a call in µs, and how far its result was from the expected one."""

    kernel: str
    shape: str
    variant: str
    microseconds: float
    rate: float  # TB/s, or TFLOP/s where the case counts operations
    error: float | None = field(default=None)


def buffers(size: int) -> int:
    """How many sets of a size in bytes a rotation needs."""
    return max(1, min(MOST_BUFFERS, -(-ROTATION // max(size, 1))))


def microseconds(calls: Sequence[Call]) -> float:
    """The median time of one of the calls, replayed from a CUDA graph that holds at least 16 of them."""
    repeated = list(calls) * -(-16 // len(calls))
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for call in repeated:
                call()
        graph.replay()
        graph.replay()
        times: list[float] = []
        for _ in range(REPLAYS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3 / len(repeated))
    return statistics.median(times)


def error(out: Tensor, expected: Tensor) -> float:
    """`‖out - expected‖ / ‖expected‖`."""
    return float((out.double() - expected.double()).norm() / expected.double().norm())


def measure(case: Case, variant: Variant, expected: Tensor | None) -> Measurement:
    """Check a variant, then time it. Raises AssertionError for a wrong result."""
    found = None
    if expected is not None:
        out = variant.calls[0]()
        assert isinstance(out, Tensor)
        found = error(out, expected)
        assert found <= case.tolerance, f"{case.kernel} {case.shape} {variant.name}: error {found:.2e}"
    time = microseconds(variant.calls)
    return Measurement(case.kernel, case.shape, variant.name, time, (case.flops or case.size) / time / 1e6, found)


def read_ceiling() -> float:
    """TB/s at which the device reads: a sum over four gigabytes."""
    unread = torch.randn(1 << 30, device="cuda")
    return unread.nbytes / microseconds([lambda: unread.view(torch.int32).amax()]) / 1e6


def matmul_ceiling() -> float:
    """TFLOP/s of a large bf16 matmul of random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / microseconds([lambda: a @ b]) / 1e6

"""What a device can do at most, measured in the run whose figures are held against it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autodeploy.cost import Cost

ROUNDS = 5
FP8_CAPABILITY = (8, 9)


@dataclass(frozen=True)
class Ceilings:
    """The rates of one device: reading its memory, and multiplying matrices of `dtype`.

    `narrow_tflops` is that of matrices of 8 bits; None where they are widened.
    """

    device: str
    read_gb_s: float
    tflops: float
    dtype: str
    narrow_tflops: float | None = None

    def floor(self, cost: Cost) -> tuple[float, str]:
        """The least seconds that something takes, and whether "memory" or "compute" makes it so."""
        reading, wide = cost.num_bytes / (self.read_gb_s * 1e9), cost.num_flops - cost.num_narrow
        computing = (wide / self.tflops + cost.num_narrow / (self.narrow_tflops or self.tflops)) / 1e12
        return (reading, "memory") if reading >= computing else (computing, "compute")

    def sentence(self) -> str:
        """The rates, for the reader of a report."""
        narrow = "" if self.narrow_tflops is None else f", {self.narrow_tflops:,.1f} of 8 bits"
        return (
            f"Floors: {self.read_gb_s:,.0f} GB/s read and {self.tflops:,.1f} TFLOP/s of {self.dtype} matmuls{narrow},"
            f" measured in this run on {self.device}."
        )

    def as_dict(self) -> dict[str, Any]:
        """The rates as JSON data."""
        return dict(vars(self))


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Measure a device of which 3 GB are free (0.3 GB on the CPU)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
    read, wide = read_gb_s(device), matmul_tflops(device, dtype)
    narrow = None
    if device.type == "cuda":
        narrow = fp8_tflops(device) if torch.cuda.get_device_capability(device) >= FP8_CAPABILITY else None
        torch.cuda.empty_cache()
    return Ceilings(name, read, wide, str(dtype).removeprefix("torch."), narrow)


def read_gb_s(device: torch.device) -> float:
    """How fast the device reads an array far larger than its caches: by a sum, or as the matrix that a vector meets."""
    num_bytes, calls = (2 << 30, 16) if device.type == "cuda" else (256 << 20, 1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    matrix = torch.ones(num_bytes // dtype.itemsize // 8192, 8192, dtype=dtype, device=device)
    vector = torch.ones(8192, dtype=dtype, device=device)
    seconds = min(best_seconds(call, device, calls) for call in (lambda: matrix.sum(), lambda: matrix @ vector))
    return num_bytes / seconds / 1e9


def matmul_tflops(device: torch.device, dtype: torch.dtype) -> float:
    """How fast the device multiplies square matrices of random numbers: zeros would draw less power, and run faster."""
    size, calls = (8192, 16) if device.type == "cuda" else (1024, 1)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: left @ right, device, calls) / 1e12


def fp8_tflops(device: torch.device) -> float:
    """How fast a GPU multiplies square matrices of random numbers in fp8, of one scale each."""
    size, calls, one = 8192, 16, torch.ones((), device=device)
    left, right = (torch.randn(size, size, device=device).to(torch.float8_e4m3fn) for _ in range(2))

    def multiply() -> Tensor:
        return torch._scaled_mm(left, right.T, one, one, out_dtype=torch.bfloat16, use_fast_accum=True)

    return 2 * size**3 / best_seconds(multiply, device, calls) / 1e12


def best_seconds(call: Callable[[], object], device: torch.device, calls: int) -> float:
    """The time of one call, the best of some rounds of `calls` each."""
    times = []
    for _ in range(ROUNDS + 1):  # the first warms up
        wait_for(device)
        started = time.perf_counter()
        for _ in range(calls):
            call()
        wait_for(device)
        times.append((time.perf_counter() - started) / calls)
    return min(times[1:])


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

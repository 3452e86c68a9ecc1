"""Overlapping launches: a kernel starts while the one before it drains (programmatic dependent launch, CUDA 12).

Every kernel that is launched with `launch_pdl` calls `await_inputs` in every program before it reads what another
kernel wrote, and before it writes or returns: then "this kernel is done" says that all kernels before it are.
"""

from __future__ import annotations

import os
from functools import cache

import torch
import triton
import triton.language as tl

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@cache
def overlaps(device: torch.device) -> bool:
    """Whether the device can overlap launches: from compute capability 9.0 on."""
    return device.type == "cuda" and not INTERPRETED and torch.cuda.get_device_capability(device) >= (9, 0)


@cache
def overlap(device: torch.device) -> dict[str, bool]:
    """The launch options and compile-time flag of a kernel that takes `overlapped`."""
    return {"overlapped": True, "launch_pdl": True} if overlaps(device) else {"overlapped": False}


@cache
def runs_gluon(device: torch.device) -> bool:
    """Whether kernels that are written in Gluon for Hopper run on a device.

    Gluon's interface is not settled: their modules are imported with the Triton they were written for only.
    """
    hopper = overlaps(device) and torch.cuda.get_device_capability(device)[0] == 9
    return hopper and triton.__version__.startswith("3.6.")


@cache
def multiprocessors(device: torch.device) -> int:
    """How many programs can run truly side by side; a token number in the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def current_device() -> torch.device:
    """The GPU that kernels are launched on; the CPU in the interpreter and where there is none."""
    here = torch.cuda.is_available() and not INTERPRETED
    return torch.device("cuda", torch.cuda.current_device()) if here else torch.device("cpu")


@cache
def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory that a program can have; plenty in the interpreter."""
    if device.type != "cuda":
        return 1 << 30
    return int(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]


@triton.jit
def let_next_start(overlapped: tl.constexpr) -> None:
    """Let the next kernel start as soon as there is room, for one that asks for much before it awaits its inputs."""
    if overlapped:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def await_inputs(overlapped: tl.constexpr) -> None:
    """Let the next kernel start as soon as there is room; wait until the kernels before this one are done."""
    if overlapped:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()

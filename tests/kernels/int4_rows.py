"""What each kernel in CUDA C++ for few rows by weights in 4 bits must do, on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels import builtin_kernels
from autodeploy.kernels.storage import Storage
from tests.kernels.steps import error
from tests.kernels.test_triton_packed import Stored, stored_as

TOLERANCE = 5e-3
INT4 = Storage("int4", "bfloat16", 4096, 32)
Run = Callable[[Tensor, Tensor | None, str | None], Tensor]
"""Rows `[m, k]`, a bias and a gate's activation or None -> what the kernel gives of a weight."""


def check_cut(run: Run, stored: Stored, x: Tensor) -> None:
    """A projection, the same each time, and one with a gate and a bias, where memory held no numbers before."""
    expected = x.double() @ stored.wide().T
    outs = []
    for _ in range(4):
        poison = torch.full(expected.shape, torch.nan, dtype=x.dtype, device=x.device)
        del poison  # the next result lies where it was
        outs.append(run(x, None, None))
    assert error(outs[0], expected) <= TOLERANCE
    assert all(torch.equal(out, outs[0]) for out in outs)
    bias = torch.randn(expected.shape[1], device=x.device).to(x.dtype)
    wide = (expected + bias.double()).chunk(2, dim=-1)
    assert error(run(x, bias, "silu"), ops.gated_activation.reference(*wide, "silu")) <= TOLERANCE


def check_activation(run: Run, stored: Stored, x: Tensor, kind: str) -> None:
    """A gate's activation."""
    wide = (x.double() @ stored.wide().T).chunk(2, dim=-1)
    assert error(run(x, None, kind), ops.gated_activation.reference(*wide, kind)) <= TOLERANCE


def check_what_is_timed(backend: str, m: int, n: int, k: int) -> None:
    """Each configuration that TUNE would time, called as LOWER would call it."""
    kernel = builtin_kernels("cuda").find(ops.packed_linear.overload, backend)
    assert kernel is not None
    assert kernel.tunable is not None
    stored = stored_as("int4-128", n, k, torch.bfloat16)
    x = torch.randn(m, k, device="cuda").bfloat16() * 0.01
    found = kernel.tunable.configs(m, n, k, torch.bfloat16, replace(INT4, scale_rows=n, groups=k // 128))
    assert found
    for config in found:
        out = kernel.tunable.bind(config)(x, *stored.arguments, None, stored.format)
        assert error(out, x.double() @ stored.wide().T) <= TOLERANCE, config

"""Where the Triton kernels run in tests: on the GPU, or through Triton's interpreter when its variable is set."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.kernels import triton
from autodeploy.kernels.table import Kernel
from autodeploy.ops import CanonicalOp
from tests.kernels.steps import TOLERANCE, error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter takes minutes, and goes by the same lines for numbers that are rounded and that are not: one dtype is
# enough, and tl.dot on bf16 gives garbage in that of triton 3.6.
DTYPES = [torch.float16] if INTERPRETED else [torch.float32, torch.float16, torch.bfloat16]
ON_DEVICE = [] if INTERPRETED else [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def device_test(test: Any) -> Any:
    for mark in ON_DEVICE:
        test = mark(test)
    return test


def later(*values: Any) -> Any:
    """A case that the interpreter leaves to `make test-all`."""
    return pytest.param(*values, marks=[pytest.mark.slow] if INTERPRETED else [])


def kernel(op: CanonicalOp) -> Kernel:
    return next(one for one in triton.kernels() if one.op is op)


def draw(*size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(size).to(DEVICE, dtype)


def close(out: Tensor, expected: Tensor) -> None:
    assert out.shape == expected.shape
    assert error(out, expected) <= TOLERANCE[out.dtype]


def check(op: CanonicalOp, *args: Any) -> None:
    """The kernel of op against its reference in float32, from the same (rounded) values."""
    out = kernel(op).run(*args)
    expected = op.reference(*(arg.float() if isinstance(arg, Tensor) else arg for arg in args))
    outs, wanted = (out, expected) if isinstance(out, tuple) else ((out,), (expected,))
    for one, other in zip(outs, wanted, strict=True):
        assert one.dtype == args[0].dtype
        close(one, other)

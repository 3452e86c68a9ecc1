"""The Triton kernels: on the GPU where there is one, and through Triton's interpreter in a process of its own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels import triton
from autodeploy.kernels.table import Kernel
from autodeploy.ops import CanonicalOp
from tests.kernels.steps import TOLERANCE, Shape, error, make_step

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
# tl.dot on bf16 gives garbage in the interpreter of triton 3.6
DTYPES = [torch.float32, torch.float16] if INTERPRETED else [torch.float32, torch.float16, torch.bfloat16]
on_device = [] if INTERPRETED else [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def device_test(test: Any) -> Any:
    for mark in on_device:
        test = mark(test)
    return test


def kernel(op: CanonicalOp) -> Kernel:
    return next(one for one in triton.kernels() if one.op is op)


def draw(*size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(size).to(DEVICE, dtype)


def check(op: CanonicalOp, *args: Any) -> None:
    out: Tensor = kernel(op).run(*args)
    wide = [arg.float() if isinstance(arg, Tensor) else arg for arg in args]
    expected = op.reference(*wide)
    assert out.shape == expected.shape
    assert out.dtype == args[0].dtype
    assert error(out, expected) <= TOLERANCE[out.dtype]


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [61, 576])
@pytest.mark.parametrize(("offset", "wide"), [(0.0, False), (1.0, False), (1.0, True)])
def test_rms_norm(width: int, offset: float, wide: bool, dtype: torch.dtype) -> None:
    check(ops.rms_norm, draw(2, 3, width, dtype=dtype), draw(width, dtype=dtype), 1e-5, offset, wide)
    check(ops.rms_norm, draw(4, 2 * width, dtype=dtype)[:, width:], None, 1e-5, offset, wide)


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("width", "rotary"), [(64, 64), (80, 20)])
def test_rope(width: int, rotary: int, interleaved: bool, dtype: torch.dtype) -> None:
    for angle_dtype in {dtype, torch.float32}:
        cos, sin = draw(7, rotary, dtype=angle_dtype), draw(7, rotary, dtype=angle_dtype)
        joined = draw(7, 5, width, dtype=dtype)
        check(ops.rope, joined[:, 1:4], cos, sin, interleaved)
        check(ops.rope, draw(2, 7, 1, width, dtype=dtype), cos[None], sin[None], interleaved)


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", list(ops.ACTIVATIONS))
def test_gated_activation(kind: str, dtype: torch.dtype) -> None:
    gate, up = draw(2, 3, 2 * 75, dtype=dtype).chunk(2, dim=-1)
    check(ops.gated_activation, gate, up, kind)


DECODE = [(1, 70), (1, 1), (1, 33)]
MIXED = [(1, 40), (5, 5), (1, 1), (30, 90)]


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("group", "width"), [(1, 64), (3, 64), (8, 128), (3, 80), (1, 96)])
@pytest.mark.parametrize("requests", [DECODE, MIXED])
def test_paged_attention(requests: list[tuple[int, int]], group: int, width: int, dtype: torch.dtype) -> None:
    shape = Shape(heads=2 * group, kv_heads=2, key_width=width, value_width=width)
    step = make_step(shape, requests, dtype, padding=3)
    out, key_pages, value_pages = step.to(DEVICE).call(kernel(ops.paged_attention).run)
    expected, expected_keys, expected_values = step.expected()
    assert error(out.cpu(), expected) <= TOLERANCE[dtype]
    assert not out[-3:].any()
    assert torch.equal(key_pages.cpu().float().nan_to_num(), expected_keys.nan_to_num())
    assert torch.equal(value_pages.cpu().float().nan_to_num(), expected_values.nan_to_num())


@device_test
@pytest.mark.parametrize(
    ("window", "softcap", "sinks"), list(itertools.product([None, 1, 17, 64], [None, 5.0], [False, True]))
)
def test_paged_attention_masks(window: int | None, softcap: float | None, sinks: bool) -> None:
    shape = Shape(heads=4, kv_heads=2, key_width=32, value_width=48, page_size=5)
    step = make_step(shape, MIXED, torch.float32, window=window, softcap=softcap, sinks=sinks)
    out = step.to(DEVICE).call(kernel(ops.paged_attention).run)[0]
    assert error(out.cpu(), step.expected()[0]) <= 2e-5


@pytest.mark.skipif(INTERPRETED or not find_spec("triton"), reason="runs the others in the interpreter")
def test_in_the_interpreter() -> None:
    scalars = "ignore:Conversion of an array with ndim:DeprecationWarning"  # the interpreter's own loop bounds
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", scalars, __file__]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_table_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "why_unavailable", lambda: "triton is not installed")
    assert triton.kernels.__wrapped__() == ()

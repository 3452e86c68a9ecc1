"""Quantizers, alone and with the norm or gate before them: the very values of the references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.ops import CanonicalOp
from tests.kernels.device import DEVICE, DTYPES, INTERPRETED, device_test, draw, kernel, later

FORMATS = ["fp8", "int8"]
STATIC = [None, 0.02]
GROUPS = [(96, 0), (75, 0), (256, 128), (384, 128), (96, 32)]
FEWER_GROUPS = [later(96, 0), (75, 0), later(256, 128), (384, 128), later(96, 32)]
ROWS = (2, 3) if INTERPRETED else (3, 6)
"""On a GPU, more than are left to kernels in CUDA C++."""


def check(op: CanonicalOp, *args: Any) -> None:
    """The kernel against the reference on the CPU, where PyTorch divides exactly: on a GPU and alone bit for bit, and
    behind what is computed first a result in a hundred may be rounded the other way, the largest one, too."""
    outs = tuple(out.cpu() for out in kernel(op).run(*args))
    expected = op.reference(*(arg.cpu() if isinstance(arg, Tensor) else arg for arg in args))
    for out, one in zip(outs, expected, strict=True):
        assert (out.shape, out.dtype) == (one.shape, one.dtype)
        difference = (out.float() - one.float()).norm() / one.float().norm()
        exact = 1e-6 if op is ops.quantize else 1e-3  # a scale follows the largest number, of 16 bits
        assert difference <= (exact if out.dtype == torch.float32 else 1e-2)
        assert (out.float() != one.float()).float().mean() <= 1e-2 or out.dtype == torch.float32
        # the interpreter rounds between a product and a sum
        assert INTERPRETED or op is not ops.quantize or torch.equal(out.float(), one.float())


def static(scale: float | None) -> Tensor | None:
    return None if scale is None else torch.tensor(scale, device=DEVICE)


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("scale", STATIC)
@pytest.mark.parametrize(("width", "group"), GROUPS)
def test_quantize(width: int, group: int, scale: float | None, format: str, dtype: torch.dtype) -> None:
    x = draw(*ROWS, 2 * width, dtype=dtype)[..., width:] * 3
    x[0, 1] = 0  # whose scale is one
    check(ops.quantize, x, format, group, static(scale))
    check(ops.quantize, x[1, 0], format, group, static(scale))


@device_test
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("scale", STATIC)
@pytest.mark.parametrize(("width", "group"), FEWER_GROUPS)
@pytest.mark.parametrize(("offset", "wide"), [(0.0, False), (1.0, True)])
def test_norms(width: int, group: int, scale: float | None, format: str, offset: float, wide: bool) -> None:
    both, weight = draw(*ROWS, 2 * width, dtype=torch.float16), draw(width, dtype=torch.float16)
    x, residual = both[..., :width], both[..., width:]
    how = (1e-5, offset, wide, format, group, static(scale))
    check(ops.rms_norm_quantize, x, weight, *how)
    check(ops.rms_norm_quantize, x, None, *how)
    check(ops.add_rms_norm_quantize, x, residual, weight, *how)


@device_test
@pytest.mark.parametrize("kind", list(ops.ACTIVATIONS))
def test_gates(kind: str) -> None:
    for (width, group), format in zip(GROUPS, [*FORMATS, *FORMATS, "fp8"], strict=True):
        gate, up = draw(*ROWS, 2 * width, dtype=torch.float16).chunk(2, dim=-1)
        check(ops.gated_activation_quantize, gate, up, kind, format, group, None)
        check(ops.gated_activation_quantize, gate, up, kind, format, group, static(0.02))


@device_test
def test_values_saturate() -> None:
    x = torch.tensor([[1e4, -1e4, 3.0]], device=DEVICE)
    for format, most in (("fp8", 448.0), ("int8", 127.0)):
        values, _ = kernel(ops.quantize).run(x, format, 0, static(1.0))
        assert values.float().tolist() == [[most, -most, 3.0]]


@device_test
def test_declines() -> None:
    declines = kernel(ops.quantize).declines
    x = torch.empty(2, 96)
    assert declines(x, "fp8") is None
    assert declines(x, "int4") == "activations are not quantized to 'int4'"
    assert "power of two" in str(declines(x, "fp8", 48))
    assert "wider" in str(declines(torch.empty(1, 1 << 15), "fp8"))
    assert kernel(ops.add_rms_norm_quantize).declines(x, x.half(), None, 1e-5, 0.0, False, "fp8") is not None
    assert kernel(ops.rms_norm_quantize).declines(x, x[0].half(), 1e-5, 0.0, False, "fp8") is not None
    assert kernel(ops.gated_activation_quantize).declines(x, x[:1], "silu", "fp8") == "gate and up differ"
    assert "named" in str(kernel(ops.gated_activation_quantize).declines(x, x, "none", "fp8"))

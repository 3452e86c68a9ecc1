"""Weights that go straight to the matrix units: planned and compiled here, computed on the GPU."""

from __future__ import annotations

import pytest
import torch

from autodeploy import ops
from autodeploy.kernels.storage import Storage
from tests.kernels.device import INTERPRETED
from tests.kernels.steps import error
from tests.kernels.test_compilation import compiled as compiled  # a fixture
from tests.kernels.test_triton_packed import spread, stored_as

pytest.importorskip("triton")
import triton

from autodeploy.kernels.triton import direct_plan, packed_linear, scaled_linear
from autodeploy.kernels.triton.quantized import QuantizedConfig

pytestmark = pytest.mark.skipif(
    INTERPRETED or not triton.__version__.startswith("3.6."), reason="written in Gluon for Triton 3.6, not interpreted"
)
TOLERANCE = 5e-3
FEW = (
    QuantizedConfig(16, 0, 1, 4, 4, way="direct"),
    QuantizedConfig(32, 0, 2, 4, 2, way="direct"),
    QuantizedConfig(16, 0, 3, 8, 1, way="direct"),
)
CPU_ONLY = pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU's own tests compile them")


CASES = ((1, 4096, 4096, FEW[0]), (8, 1000, 1408, FEW[1]), (13, 24, 1152, FEW[2]))
"""Rows, a weight's size and a way: even and uneven shares of columns, and rows of the weight that fill no tile."""


def check_packed(name: str, m: int, n: int, k: int, config: QuantizedConfig, dtype: torch.dtype) -> None:
    """A projection, and one with a gate and a bias, against products of what the weight stands for."""
    stored = stored_as(name, n, k, dtype)
    x, bias = torch.randn(m, 2 * k, device="cuda").to(dtype)[:, k:] * 0.01, torch.randn(n, device="cuda").to(dtype)
    expected = x.double() @ stored.wide().T
    out = packed_linear.run(x, *stored.arguments, None, stored.format, config)
    assert error(out, expected) <= TOLERANCE
    out = packed_linear.run(x, *stored.arguments, bias, stored.format, config, "silu")
    wide = (expected + bias.double()).chunk(2, dim=-1)
    assert error(out, ops.gated_activation.reference(*wide, "silu")) <= TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["int4-128", "int4-128-zeros", "int4", "int8", "int8-64"])
@pytest.mark.parametrize(("m", "n", "k", "config"), CASES)
def test_few_rows(name: str, m: int, n: int, k: int, config: QuantizedConfig) -> None:
    check_packed(name, m, n, k, config, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["int4-256-zeros", "int8"])
def test_half_precision(name: str) -> None:
    check_packed(name, 7, 200, 1280, FEW[1], torch.float16)


@pytest.mark.gpu
@pytest.mark.parametrize(("m", "n", "k", "config"), CASES)
def test_quantized_rows(m: int, n: int, k: int, config: QuantizedConfig) -> None:
    weight = torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn)
    for scale, x_scale in ((spread(n, 1), spread(m, 1)), (spread(1, 1), spread(1)[0])):
        x = torch.randn(m, k, device="cuda").to(torch.float8_e4m3fn)
        expected = (x.double() * x_scale) @ (weight.double() * scale).T
        out = scaled_linear.run(x, x_scale, weight, scale, None, torch.bfloat16, config)
        assert error(out, expected) <= TOLERANCE


@CPU_ONLY
@pytest.mark.slow
def test_packed_weights_compile(compiled: list[str]) -> None:
    for name, gate in (("int4-128-zeros", "silu"), ("int8", None)):
        format, k = name.split("-")[0], 1408
        columns = k // 2 if format == "int4" else k
        dtype = torch.uint8 if format == "int4" else torch.int8
        scale = torch.ones(200, k // 128 if format == "int4" else 1, dtype=torch.bfloat16)
        zero = torch.ones(scale.shape, dtype=torch.uint8) if format == "int4" else None
        x, weight = torch.randn(3, k).bfloat16(), torch.ones(200, columns, dtype=dtype)
        packed_linear.run(x, weight, scale, zero, None, None, format, FEW[1], gate)
    assert len(compiled) == 2


@CPU_ONLY
def test_quantized_rows_compile(compiled: list[str]) -> None:
    x, weight = (torch.ones(rows, 256).to(torch.float8_e4m3fn) for rows in (3, 40))
    scaled_linear.run(x, torch.ones(3, 1), weight, torch.ones(40, 1), None, torch.bfloat16, FEW[0])
    assert compiled == ["direct_kernel"]


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_plan, "runs_gluon", lambda _: True)


INT4 = Storage("int4", "bfloat16", 4096, 32)
FP8 = Storage("fp8", "float32", 4096, 1, x_groups=1)


@pytest.mark.usefixtures("on_hopper")
def test_what_is_planned() -> None:
    few = direct_plan.candidates(8, 4096, 4096, torch.bfloat16, INT4)
    assert {one.way for one in few} == {"direct"}
    assert packed_linear.candidates(8, 4096, 4096, torch.bfloat16, INT4)[: len(few)] == few
    of_bytes = direct_plan.candidates(8, 4096, 4096, torch.bfloat16, FP8)
    assert scaled_linear.candidates(8, 4096, 4096, torch.bfloat16, FP8)[-len(of_bytes) :] == of_bytes
    assert not direct_plan.candidates(17, 4096, 4096, torch.bfloat16, INT4)


@pytest.mark.usefixtures("on_hopper")
def test_what_is_left_to_others() -> None:
    def reason(storage: Storage, m: int = 8, k: int = 4096, dtype: torch.dtype = torch.bfloat16) -> str | None:
        found = direct_plan.declines(m, 4096, k, dtype, storage)
        assert bool(direct_plan.candidates(m, 4096, k, dtype, storage)) is (found is None)
        return found

    assert reason(INT4) is None
    assert reason(INT4, k=4160) == "rows of 4160 numbers of int4 are no whole number of units"
    assert reason(INT4, m=17) == "17 rows of torch.bfloat16 are not multiplied"
    assert reason(INT4, dtype=torch.float32) == "8 rows of torch.float32 are not multiplied"
    assert reason(Storage("int4", "bfloat16", 4096, 64)) == "groups are no whole number of units"
    assert reason(Storage("int8", "bfloat16", 4096, 64)) is None
    assert reason(Storage("fp8", "float32", 4096, 1)) == "fp8 is multiplied by fp8 alone"
    blocks = Storage("fp8", "float32", 32, 32, x_groups=32)
    assert reason(blocks) == "only fp8 with scales of whole rows is multiplied by fp8"
    assert "numbers of nvfp4" in str(reason(Storage("nvfp4", "float8_e4m3fn", 4096, 256)))


def test_rows_that_begin_within_a_word_are_copied() -> None:
    from autodeploy.kernels.triton import direct_linear

    rows = torch.randn(3, 9).bfloat16()[:, 1:]
    assert direct_linear._as_words(rows).view(torch.bfloat16).equal(rows)
    aligned = torch.randn(3, 8).bfloat16()
    assert direct_linear._as_words(aligned).data_ptr() == aligned.data_ptr()

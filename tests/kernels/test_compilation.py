"""Kernels compiled for Hopper on a machine without one: the interpreter forgives what the compiler does not."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.device import INTERPRETED
from tests.kernels.steps import Shape, make_step

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from autodeploy.kernels.triton import attention, embedding, packed_linear, rotary_tables, scaled_linear
from autodeploy.kernels.triton.quantized import QuantizedConfig

pytestmark = pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the GPU's own tests compile them")


class Absent:
    """What Triton asks of a GPU in order to compile for it."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were launched and, instead of running, compiled."""
    names: list[str] = []
    launch = JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        launch(kernel, *args, grid=grid, warmup=True, **options)
        names.append(kernel.__name__)

    monkeypatch.setattr(JITFunction, "run", compile_only)
    for name, module in list(sys.modules.items()):
        if name.startswith("autodeploy.kernels.triton.") and hasattr(module, "overlap"):
            monkeypatch.setattr(module, "overlap", lambda _: {"overlapped": True, "launch_pdl": True})
    monkeypatch.setattr(driver, "_active", Absent())
    return names


def launch_step(cached: torch.dtype, scales: tuple[Tensor | None, Tensor | None]) -> None:
    """A step that decodes and prefills, over a cache of some dtype."""
    step = make_step(Shape(16, 2, 128, 128), [(1, 40), (9, 30)], torch.bfloat16)
    q, k, v, *pages_and_tables = step.tensors
    pages = [page.nan_to_num(1.0).to(cached) for page in pages_and_tables[:2]]
    angles = torch.randn(2, len(q), 128).bfloat16()
    options = {**step.options, "key_scale": scales[0], "value_scale": scales[1]}
    attention.rope_paged_attention(q, k, v, *angles, *pages, *pages_and_tables[2:], **options)


ALL = ["_rope_cache_kernel", "_decode_kernel", "_prefill_kernel"]
SCALES = torch.ones(2)


def test_attention_compiles(compiled: list[str]) -> None:
    launch_step(torch.bfloat16, (None, None))
    assert compiled == ALL


@pytest.mark.slow
@pytest.mark.parametrize("cached", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("scales", [(None, None), (SCALES, SCALES), (SCALES, None)])
def test_attention_over_8_bits_compiles(
    compiled: list[str], cached: torch.dtype, scales: tuple[Tensor | None, Tensor | None]
) -> None:
    launch_step(cached, scales)
    assert compiled == ALL


RING = QuantizedConfig(128, 128, 2, 4, 3, way="ring")


@pytest.mark.parametrize(("dtype", "columns", "group"), [(torch.int8, 256, 256), (torch.uint8, 128, 128)])
def test_rings_of_packed_weights_compile(compiled: list[str], dtype: torch.dtype, columns: int, group: int) -> None:
    x, weight = torch.randn(3, 256).bfloat16(), torch.ones(256, columns, dtype=dtype)
    scale, format = torch.ones(256, 256 // group).bfloat16(), "int8" if dtype == torch.int8 else "int4"
    for gate in (None, "silu"):
        packed_linear.run(x, weight, scale, None, None, None, format, RING, gate)
    assert compiled == ["packed_ring_kernel"] * 2


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_rings_of_quantized_rows_compile(compiled: list[str], dtype: torch.dtype) -> None:
    x, weight = torch.ones(3, 256).to(dtype), torch.ones(256, 256).to(dtype)
    for gate in (None, "silu"):
        scaled_linear.run(x, torch.ones(3, 1), weight, torch.ones(256, 1), None, torch.bfloat16, RING, gate)
    assert compiled == ["scaled_ring_kernel"] * 2


def test_one_row_of_nibbles_compiles(compiled: list[str]) -> None:
    x, weight = torch.randn(1, 256).bfloat16(), torch.ones(64, 128, dtype=torch.uint8)
    way = QuantizedConfig(8, 256, 1, 4, 1, way="vector")
    packed_linear.run(x, weight, torch.ones(64, 2).bfloat16(), None, None, None, "int4", way)
    assert compiled == ["nibble_matvec_kernel"]


def test_the_beginning_of_a_step_compiles(compiled: list[str]) -> None:
    positions = torch.arange(4)
    rotary_tables.rotary_tables(positions, torch.rand(64), torch.bfloat16)
    embedding.embedding(torch.randn(5, 4096).bfloat16(), positions)
    assert compiled == ["_rotary_tables_kernel", "_embedding_kernel"]

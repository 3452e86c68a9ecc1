"""Attention compiled for Hopper on a machine without one: the interpreter forgives what the compiler does not."""

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

from autodeploy.kernels.triton import attention

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

"""Skinny matmuls that ask for the beginning of a weight: for what, and that results are what they are without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.device import INTERPRETED, device_test, draw, later

pytest.importorskip("triton")
from triton.runtime.jit import JITFunction

from autodeploy.kernels.triton import ahead, linear, scaled_linear
from autodeploy.kernels.triton.quantized import QuantizedConfig
from tests.kernels.test_compilation import compiled  # noqa: F401  (a fixture)

SIXTEEN = linear.SkinnyConfig(64, 128, split_k=2, num_stages=3, ahead=256)
EIGHT = QuantizedConfig(64, 128, 2, 4, 3, ahead=256)


def weights(rows: int, columns: int, offset: int = 0) -> Tensor:
    return torch.zeros(rows * columns + offset, dtype=torch.bfloat16)[offset:].view(rows, columns)


@pytest.mark.parametrize(
    ("weight", "share", "columns"),
    [
        (weights(4, 2048), 1024, 512),
        (weights(4, 512), 256, 256),
        (weights(4, 1028), 514, 0),
        (weights(4, 1024, 1), 1024, 0),
    ],
    ids=["all that is wanted", "a whole share", "no words", "not on words"],
)
def test_how_much(monkeypatch: pytest.MonkeyPatch, weight: Tensor, share: int, columns: int) -> None:
    assert ahead.columns_ahead(512, weight, share) == 0, "there is no such request here"
    monkeypatch.setattr(ahead, "overlaps", lambda _: True)
    assert ahead.columns_ahead(512, weight, share) == columns


@pytest.fixture
def programs(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:  # noqa: F811
    """The PTX of what was launched and, instead of running, compiled for a device that has such requests."""
    found: list[str] = []
    compile_only = JITFunction.run

    def keep(kernel: Any, *args: Any, **options: Any) -> None:
        found.append(compile_only(kernel, *args, **options).asm["ptx"])

    monkeypatch.setattr(JITFunction, "run", keep)
    monkeypatch.setattr(ahead, "overlaps", lambda _: True)
    return found


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the GPU's own tests compile them")
@pytest.mark.parametrize(("gate", "requests"), [(None, 1), ("silu", 2)])
def test_each_half_of_a_weight_is_asked_for(programs: list[str], gate: str | None, requests: int) -> None:
    linear.run(weights(3, 1024), weights(128, 1024), None, SIXTEEN, gate)
    eight, scale = weights(128, 1024).to(torch.float8_e4m3fn), torch.ones(128, 1)
    scaled_linear.run(eight[:3], scale[:3], eight, scale, None, torch.bfloat16, EIGHT, gate)
    assert [program.count("cp.async.bulk.prefetch.L2") for program in programs] == [requests] * 2


@device_test
@pytest.mark.parametrize("n", [256, later(200)])
@pytest.mark.parametrize("gate", [None, later("silu")])
def test_results_do_not_differ(n: int, gate: str | None) -> None:
    x, weight = draw(5, 1024, dtype=torch.float16) * 0.1, draw(n, 1024, dtype=torch.float16)
    found = [linear.run(x, weight, None, replace(SIXTEEN, ahead=columns), gate) for columns in (0, 256)]
    assert torch.equal(*found)
    rows, numbers = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn)
    operands = (rows, draw(5, 1, dtype=torch.float32), numbers, draw(n, 1, dtype=torch.float32), None, torch.float32)
    found = [scaled_linear.run(*operands, replace(EIGHT, ahead=columns), gate) for columns in (0, 256)]
    assert found[0].isfinite().all()
    assert torch.equal(*found)

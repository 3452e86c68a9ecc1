"""Lossy passes: rounding is reported, and what is no rounding is caught."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx import GraphModule

import autodeploy as ad
from autodeploy.errors import VerificationError
from autodeploy.export import Traced, trace_model
from autodeploy.graph.nodes import arguments, calls_of
from autodeploy.passes.quantize_linears import QuantizeLinears
from autodeploy.pipeline import Context
from autodeploy.testing.families import tiny_model
from autodeploy.verify import Verification
from autodeploy.weights import Add, MemorySource
from tests.families import config_of

ops = torch.ops.autodeploy
Traces = dict[torch.dtype, Traced]


CONFIG = config_of("llama", {"num_hidden_layers": 2, "attention_bias": True, "mlp_bias": True})


@pytest.fixture(scope="session")
def source() -> MemorySource:
    return MemorySource(dict(tiny_model(CONFIG).state_dict()))


@pytest.fixture(scope="session")
def traced() -> Traces:
    return {dtype: trace_model(CONFIG, dtype) for dtype in (torch.float32, torch.bfloat16)}


def verify(traced: Traced, source: MemorySource, **values: Any) -> Verification:
    return ad.optimize(traced, gpu="cpu", source=source, set=values).verify()


SLOW = ("int4_g32", "int8_dynamic", "fp8_tensor", "nvfp4")


@pytest.mark.parametrize("scheme", ["fp8", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_rounding_is_reported_and_passes(traced: Traces, source: MemorySource, scheme: str) -> None:
    found = verify(traced[torch.bfloat16], source, **{"passes.mark_precision.scheme": scheme})
    for trial in found.trials:
        checks = {one.name: one for one in trial.checks}
        assert 1e-4 < checks["quantize_linears"].worst.relative < 0.5
        assert checks["quantize_linears"].bound.startswith("loss ≤ ")
        assert not [one for one in trial.checks if one.failure]
    assert checks["choose_kernels"].drift is not None
    assert checks["choose_kernels"].drift < checks["quantize_linears"].worst.relative * 2


@pytest.mark.slow
def test_a_cache_in_fp8(traced: Traces, source: MemorySource) -> None:
    found = verify(traced[torch.bfloat16], source, **{"passes.quantize_cache.format": "fp8"})
    single, half = ({one.name: one for one in trial.checks} for trial in found.trials)
    assert single["quantize_cache"].worst.bitwise  # no input is rounded in float32
    assert half["quantize_cache"].worst.relative > 1e-4


def wrong(monkeypatch: pytest.MonkeyPatch, mistake: Any) -> None:
    right = QuantizeLinears.run

    def run(self: QuantizeLinears, gm: GraphModule, ctx: Context) -> int:
        changed = right(self, gm, ctx)
        if changed:
            mistake(gm, ctx)
        return changed

    monkeypatch.setattr(QuantizeLinears, "run", run)


def forget_a_bias(gm: GraphModule, ctx: Context) -> None:
    call = calls_of(gm.graph, ops.packed_linear.default)[3]
    named = arguments(call)
    call.args = tuple({**named, "bias": None}.values())


def scale_by_another(gm: GraphModule, ctx: Context) -> None:
    name = "model.layers.0.mlp.down_proj.weight_scale"
    ctx.weights[name] = ctx.weights[name.replace("layers.0", "layers.1")]


def double_a_scale(gm: GraphModule, ctx: Context) -> None:
    name = "model.layers.0.mlp.down_proj.weight_scale"
    ctx.weights[name] = Add(ctx.weights[name], ctx.weights[name])


@pytest.mark.parametrize("mistake", [forget_a_bias, scale_by_another])
def test_a_mistake_is_told_from_rounding(
    traced: Traces, source: MemorySource, monkeypatch: pytest.MonkeyPatch, mistake: Any
) -> None:
    wrong(monkeypatch, mistake)
    with pytest.raises(
        VerificationError, match=r"'quantize_linears' changes the numbers in float32: .* rounding alone"
    ):
        verify(traced[torch.float32], source, **{"passes.mark_precision.scheme": "int8"})


@pytest.mark.slow
def test_what_a_dtype_adds_is_bounded(traced: Traces, source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> None:
    def double(gm: GraphModule, ctx: Context) -> None:
        if calls_of(gm.graph, ops.scaled_linear.default)[0].meta["val"].dtype is torch.bfloat16:
            double_a_scale(gm, ctx)

    wrong(monkeypatch, double)
    with pytest.raises(VerificationError, match=r"'quantize_linears' changes the numbers in bfloat16: the distance"):
        verify(traced[torch.bfloat16], source, **{"passes.mark_precision.scheme": "fp8"})

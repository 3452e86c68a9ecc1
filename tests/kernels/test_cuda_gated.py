"""Projections of many rows by the kernel in CUDA C++: how they are cut, that it compiles, its numbers on the GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels import builtin_kernels
from autodeploy.kernels.cuda import tensor_map
from autodeploy.kernels.cuda.compile import compiled
from tests.kernels.steps import TOLERANCE, error

pytest.importorskip("triton")
from autodeploy.kernels.cuda import gated_tiles

CONFIGS = (gated_tiles.GatedTileConfig(1), gated_tiles.GatedTileConfig(2), gated_tiles.GatedTileConfig(2, 2))
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9, reason="no Hopper GPU"
)


@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("m", [1, 128, 129, 512, 1000, 2048, 4096, 8192])
@pytest.mark.parametrize("n", [256, 1000, 14336])
def test_all_tiles_are_served_and_the_last_by_parts(m: int, n: int, cluster: int) -> None:
    cut = gated_tiles.cut_of(m, n, cluster, 132)
    clusters = cut.programs // cluster
    assert cut.rows * cluster * gated_tiles.TOKENS >= m > (cut.rows - 1) * cluster * gated_tiles.TOKENS
    assert cut.columns * gated_tiles.WIDE >= n > (cut.columns - 1) * gated_tiles.WIDE
    assert clusters <= 132 // cluster
    assert cut.rest * cut.parts <= clusters
    whole = cut.rows * cut.columns - cut.rest
    assert (cut.parts > 1) == (cut.rest > 0)
    assert whole % (132 // cluster) == 0 or cut.parts == 1


def test_the_last_tiles_of_a_prompt_of_4096_are_cut_in_four() -> None:
    cut = gated_tiles.cut_of(4096, 14336, 2, 132)
    assert cut == gated_tiles.Cut(rows=16, columns=112, rest=10, parts=4, programs=132)


def test_what_the_accelerator_cannot_bring_has_no_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gated_tiles.candidates(4096, 28672, 4096, torch.bfloat16) == () or torch.cuda.is_available()
    monkeypatch.setattr(gated_tiles, "serves", lambda device: True)
    assert gated_tiles.candidates(4096, 28672, 4096, torch.bfloat16)
    assert gated_tiles.candidates(4096, 28672, 4096, torch.float32) == ()
    assert gated_tiles.candidates(4096, 28672, 4092, torch.bfloat16) == ()
    assert gated_tiles.candidates(4096, 2 * 1004, 4096, torch.bfloat16) == ()
    assert gated_tiles.candidates(gated_tiles.FEWEST - 1, 28672, 4096, torch.bfloat16) == ()


def test_the_backend_holds_it_beside_the_others() -> None:
    kernel = builtin_kernels("cuda").find(ops.gated_linear.overload, "cuda")
    assert kernel is not None
    assert kernel.tunable is not None
    assert kernel.tunable.config_type is gated_tiles.GatedTileConfig


@pytest.mark.parametrize("cluster", [1, 2])
@pytest.mark.parametrize("kind", ["silu", "gelu"])
def test_it_compiles_for_hopper_without_spilling(kind: str, cluster: int) -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError:
        pytest.skip("no NVRTC")
    variant = gated_tiles.variant_of(torch.bfloat16, True, kind, gated_tiles.GatedTileConfig(cluster))
    code, said = compiled(variant, (9, 0))
    assert code
    assert "0 bytes spill stores" in said
    assert "C7510" not in said, "products wait for each other"


def poisoned(x: Tensor, weight: Tensor, bias: Tensor | None, kind: str, config: gated_tiles.GatedTileConfig) -> Tensor:
    """Its result in memory that was filled with NaN, as that of all tensors is where algorithms are deterministic."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1, device="cuda").isnan()
        return gated_tiles.run(x, weight, bias, config, kind)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(
    ("n", "k", "dtype"), [(14336, 4096, torch.bfloat16), (1000, 1104, torch.float16), (128, 40, torch.bfloat16)]
)
@pytest.mark.parametrize("m", [1, 130, 512, 777, 4096, 5000])
def test_gates(m: int, n: int, k: int, dtype: torch.dtype, config: gated_tiles.GatedTileConfig) -> None:
    x = torch.randn(m, 2 * k, device="cuda").to(dtype)[:, k:]
    weight, bias = (
        (torch.randn(2 * n, k, device="cuda") * k**-0.5).to(dtype),
        torch.randn(2 * n, device="cuda").to(dtype),
    )
    wide = (x.float(), weight.float(), bias.float())
    assert (
        error(poisoned(x, weight, bias, "silu", config), ops.gated_linear.reference(*wide, "silu")) <= TOLERANCE[dtype]
    )
    out = poisoned(x, weight, None, "gelu_tanh", config)
    assert error(out, ops.gated_linear.reference(*wide[:2], None, "gelu_tanh")) <= TOLERANCE[dtype]


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("kind", sorted(ops.ACTIVATIONS))
def test_activations(kind: str) -> None:
    x, weight = torch.randn(2, 90, 256, device="cuda").half(), torch.randn(512, 256, device="cuda").half() / 8
    out = poisoned(x, weight, None, kind, CONFIGS[1])
    assert error(out, ops.gated_linear.reference(x.float(), weight.float(), None, kind)) <= TOLERANCE[torch.float16]


@pytest.mark.gpu
@on_hopper
def test_a_graph_holds_it_and_rows_that_do_not_lie_on_16_bytes_are_copied() -> None:
    weight = torch.randn(512, 256, device="cuda").half() / 16
    inputs = torch.randn(300, 261, device="cuda").half()
    x = inputs[:, 5:]
    gated_tiles.run(x, weight, None, CONFIGS[1], "silu")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = gated_tiles.run(x, weight, None, CONFIGS[1], "silu")
    inputs.normal_()
    graph.replay()
    assert error(out, ops.gated_linear.reference(x.float(), weight.float(), None, "silu")) <= TOLERANCE[torch.float16]
    assert gated_tiles.run(x[:0], weight, None, CONFIGS[1], "silu").shape == (0, 256)


def test_a_map_lies_on_64_bytes_and_a_refusal_says_of_what(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, Any]] = []

    class Driver:
        """Of which maps are asked."""

        def __init__(self, outcome: int) -> None:
            self.outcome = outcome

        def cuTensorMapEncodeTiled(self, made: Any, *numbers: Any) -> int:  # noqa: N802
            given.append((ctypes.cast(made, ctypes.c_void_p).value or 0, numbers))
            return self.outcome

    x = torch.zeros(20, 128, dtype=torch.bfloat16)[:, :64]
    monkeypatch.setattr(tensor_map, "_driver", lambda: Driver(0))
    tensor_map.described(x, 8, 32)
    ((address, numbers),) = given
    assert address % tensor_map.ALIGNMENT == 0
    assert (list(numbers[3]), list(numbers[4]), list(numbers[5])) == ([64, 20], [256], [32, 8])
    monkeypatch.setattr(tensor_map, "_driver", lambda: Driver(1))
    with pytest.raises(tensor_map.MapError, match=r"20 x 64 of torch\.bfloat16 cannot be cut into boxes of 9 x 32"):
        tensor_map.described(x, 9, 32)

"""Some rows by weights in 4 bits and the matrix units of Hopper: planned and compiled here, computed on the GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodeploy import ops
from autodeploy.kernels.cuda import packed_tiles_plan, why_unavailable
from autodeploy.kernels.cuda.compile import compiled
from autodeploy.kernels.cuda.packed_tiles_plan import CUTS, PackedTileConfig
from autodeploy.kernels.storage import Storage
from tests.kernels.steps import error

pytest.importorskip("triton")
from autodeploy.kernels.cuda import packed_tiles
from tests.kernels.int4_rows import INT4, TOLERANCE, Run, check_activation, check_cut, check_what_is_timed
from tests.kernels.test_triton_packed import Stored, stored_as

BF16, HALF = torch.bfloat16, torch.float16
BACKEND = "wgmma"
CASES = (
    (64, 4096, 4096, BF16, PackedTileConfig(4)),
    (60, 1008, 1408, BF16, PackedTileConfig(2, 3, 2, 3)),
    (17, 208, 1152, HALF, PackedTileConfig(3, 4, 4, 5, 3)),
    (9, 4096, 14336, BF16, PackedTileConfig(4, 8)),
    (100, 1008, 1408, HALF, PackedTileConfig(2, 1, 3, 3, 1)),
)
"""Rows, a weight's size and a cut: shares of groups even and uneven, and rows of the weight that fill no tile."""


def bound(stored: Stored, config: PackedTileConfig) -> Run:
    """The kernel by a weight, cut so."""
    return lambda x, bias, gate: packed_tiles.run(x, stored.weight, stored.scale, bias, config, gate)


@pytest.mark.gpu
@pytest.mark.parametrize(("m", "n", "k", "dtype", "config"), CASES)
def test_cuts(m: int, n: int, k: int, dtype: torch.dtype, config: PackedTileConfig) -> None:
    one = stored_as("int4-128", n, k, dtype)
    x = torch.randn(m, 2 * k, device="cuda").to(dtype)[:, k:] * 0.01
    x[m // 2] *= 10
    check_cut(bound(one, config), one, x)


@pytest.mark.gpu
def test_rows_do_not_depend_on_how_many_there_are() -> None:
    one = stored_as("int4-128", 512, 1024, BF16)
    x = torch.randn(128, 1024, device="cuda").to(BF16)
    run = bound(one, PackedTileConfig(2, 2, 2, 3, 1))
    whole = run(x, None, None)
    for m in (1, 16, 17, 40, 64, 65):
        assert torch.equal(run(x[:m], None, None), whole[:m]), m


@pytest.mark.gpu
@pytest.mark.parametrize("config", [one for one in CUTS if one.split == 1], ids=str)
def test_a_busy_gpu_finds_the_same_each_time(config: PackedTileConfig) -> None:
    """Of a weight that fills the GPU: next weights once came to where a warp was still reading."""
    one = stored_as("int4-128", 28672, 4096, BF16)
    x = torch.randn(64, 4096, device="cuda").to(BF16) * 0.01
    run = bound(one, config)
    outs = [run(x, None, "silu") for _ in range(24)]
    wide = (x.double() @ one.wide().T).chunk(2, dim=-1)
    assert error(outs[0], ops.gated_activation.reference(*wide, "silu")) <= TOLERANCE
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", sorted(ops.ACTIVATIONS))
def test_activations(kind: str) -> None:
    one = stored_as("int4-128", 256, 512, BF16)
    x = torch.randn(20, 512, device="cuda").to(BF16) * 0.1
    check_activation(bound(one, PackedTileConfig(1, 2)), one, x, kind)


@pytest.mark.gpu
@pytest.mark.parametrize("m", [17, 64])
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (4096, 14336)])
def test_what_is_timed(m: int, n: int, k: int) -> None:
    check_what_is_timed(BACKEND, m, n, k)


@pytest.mark.slow
@pytest.mark.skipif(why_unavailable() is not None, reason="no compiler of CUDA C++ here")
def test_compiles() -> None:
    pytest.importorskip("nvidia.cu13", reason="NVRTC is not installed")
    for m, gate, config in (
        (64, "silu", PackedTileConfig(4)),
        (64, None, PackedTileConfig(4, 8)),
        (128, None, CASES[4][4]),
    ):
        code, said = compiled(packed_tiles.variant_of(m, 4096, BF16, config, gate), (9, 0))
        assert code.startswith(b"\x7fELF")
        assert "error" not in said
        assert "serialized" not in said, "products wait for each other"


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tiles_plan, "runs_here", lambda: True)


@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize("m", [17, 64, 128])
@pytest.mark.parametrize("k", [4096, 14336])
def test_what_is_planned(m: int, k: int) -> None:
    found = packed_tiles_plan.candidates(m, 4096, k, BF16, replace(INT4, groups=k // 128))
    assert found
    assert len(set(found)) == len(found)
    for one in found:
        assert one.shared_bytes(m, k // 128) <= packed_tiles_plan.SHARED_BYTES
        assert 1 <= one.split <= 8, "a cluster has at most eight blocks everywhere"
        assert one.ahead <= one.x_stages


@pytest.mark.usefixtures("on_hopper")
def test_what_is_left_to_others() -> None:
    def reason(storage: Storage, m: int = 64, n: int = 4096, k: int = 4096, dtype: torch.dtype = BF16) -> str | None:
        found = packed_tiles_plan.declines(m, n, k, dtype, storage)
        assert bool(packed_tiles_plan.candidates(m, n, k, dtype, storage)) is (found is None)
        return found

    assert reason(INT4) is None
    assert reason(replace(INT4, format="int8")) == "weights of int8 are not multiplied"
    assert reason(replace(INT4, zero="uint8")) == "weights of int4 with zero points are not multiplied"
    assert reason(INT4, k=4160) == "a weight of 4096 x 4160 is not of whole groups in 16 bytes of a result"
    assert reason(INT4, m=129) == "129 rows of torch.bfloat16 are not multiplied"
    assert reason(replace(INT4, groups=64)) == "scales are not those of groups of 128 numbers"
    assert packed_tiles_plan.declines(16, 4096, 4096, BF16, INT4) is None
    assert not packed_tiles_plan.candidates(16, 4096, 4096, BF16, INT4)
    assert reason(INT4, dtype=HALF) == "scales of bfloat16 are not torch.float16"

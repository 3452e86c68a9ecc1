"""Few rows by weights in 4 bits, in CUDA C++: planned and compiled here, computed on the GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autodeploy import ops
from autodeploy.kernels.cuda import narrow_plan, why_unavailable
from autodeploy.kernels.cuda.compile import compiled
from autodeploy.kernels.cuda.narrow_plan import NarrowConfig
from autodeploy.kernels.storage import Storage
from tests.kernels.steps import error

pytest.importorskip("triton")
from autodeploy.kernels.cuda import narrow
from tests.kernels.int4_rows import INT4, Run, check_activation, check_cut, check_what_is_timed
from tests.kernels.test_triton_packed import Stored, stored_as

BF16, HALF = torch.bfloat16, torch.float16
CASES = (
    (1, 4096, 4096, NarrowConfig(1, 8, 2, 4, 2)),
    (1, 136, 1408, NarrowConfig(2, 4, 3, 8, 1, 1, False)),
    (5, 1000, 1408, NarrowConfig(2, 4, 2, 2, 2)),
    (8, 4096, 4096, NarrowConfig(1, 2, 8, 4, 2, 4)),
    (8, 4096, 4096, NarrowConfig(1, 1, 14, 4, 2, 1, False)),
    (13, 136, 1152, NarrowConfig(1, 4, 2, 2, 3, 3)),
)
"""Rows, a weight's size and a cut: shares of columns even and uneven, and rows of the weight that fill no tile."""


def bound(stored: Stored, config: NarrowConfig) -> Run:
    """The kernel by a weight, cut so."""
    given = narrow.Stored(stored.weight, stored.scale, stored.zero)
    return lambda x, bias, gate: narrow.run(x, given, bias, config, gate)


def check(name: str, m: int, n: int, k: int, config: NarrowConfig, dtype: torch.dtype) -> None:
    one = stored_as(name, n, k, dtype)
    x = torch.randn(m, 2 * k, device="cuda").to(dtype)[:, k:] * 0.01
    x[m // 2] *= 1000 if dtype == BF16 else 10  # products of a gate and what it gates must not be past float16
    check_cut(bound(one, config), one, x)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["int4-128", "int4-128-zeros", "int4-128-minima"])
@pytest.mark.parametrize(("m", "n", "k", "config"), CASES)
def test_cuts(name: str, m: int, n: int, k: int, config: NarrowConfig) -> None:
    check(name, m, n, k, config, BF16)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["int4-128-zeros", "int4-128"])
def test_half_precision(name: str) -> None:
    check(name, 7, 200, 1280, NarrowConfig(1, 4, 2, 2, 2), HALF)


@pytest.mark.gpu
def test_rows_of_any_size() -> None:
    one = stored_as("int4-128", 256, 1024, BF16)
    x = torch.randn(6, 1024, device="cuda").to(BF16)
    sizes = torch.tensor([0.0, 1e-30, 1e-20, 1.0, 1e10, 1e30], device="cuda")
    x = (x * sizes[:, None]).to(BF16)
    out = bound(one, CASES[0][3])(x, None, None)
    for row, expected in zip(out[1:], (x.double() @ one.wide().T)[1:], strict=True):
        assert error(row, expected) <= 2e-2
    assert not out[0].any()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", sorted(ops.ACTIVATIONS))
def test_activations(kind: str) -> None:
    one = stored_as("int4-128", 256, 512, BF16)
    x = torch.randn(3, 512, device="cuda").to(BF16) * 0.1
    check_activation(bound(one, CASES[2][3]), one, x, kind)


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1, 6, 16])
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (1536, 3584), (4096, 14336)])
def test_what_is_timed(m: int, n: int, k: int) -> None:
    check_what_is_timed("cuda", m, n, k)


@pytest.mark.slow
@pytest.mark.skipif(why_unavailable() is not None, reason="no compiler of CUDA C++ here")
def test_compiles() -> None:
    pytest.importorskip("nvidia.cu13", reason="NVRTC is not installed")
    for m, gate, zero in ((1, None, None), (8, "silu", torch.uint8)):
        scales = torch.empty(1000, 8, dtype=BF16, device="meta")
        zeros = None if zero is None else torch.empty(scales.shape, dtype=zero, device="meta")
        stored = narrow.Stored(torch.empty(1000, 512, device="meta"), scales, zeros)
        code, said = compiled(narrow.variant_of(m, 1024, stored, BF16, CASES[0][3], gate), (9, 0))
        assert code.startswith(b"\x7fELF")
        assert "error" not in said


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_plan, "runs_here", lambda: True)


@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize("m", [1, 2, 8, 16])
@pytest.mark.parametrize("k", [4096, 14336])
def test_what_is_planned(m: int, k: int) -> None:
    found = narrow_plan.candidates(m, 4096, k, BF16, replace(INT4, groups=k // 128))
    assert found
    assert len(set(found)) == len(found)
    for one in found:
        assert one.shared_bytes(m, k // 128) <= narrow_plan.SHARED_BYTES
        assert one.team * one.teams <= 32
        assert one.teams <= 15 or one.team == 1, "a barrier of each team, and one of all"
        assert one.steps in (1, 2, 4, 8), "a warp asks for whole rows, or several, at once"


@pytest.mark.usefixtures("on_hopper")
def test_what_is_left_to_others() -> None:
    def reason(storage: Storage, m: int = 8, n: int = 4096, k: int = 4096, dtype: torch.dtype = BF16) -> str | None:
        found = narrow_plan.declines(m, n, k, dtype, storage)
        assert bool(narrow_plan.candidates(m, n, k, dtype, storage)) is (found is None)
        return found

    assert reason(INT4) is None
    assert reason(INT4, k=4160) == "rows of 4160 numbers are no whole number of units"
    assert reason(INT4, m=17) == "17 rows of torch.bfloat16 are not multiplied"
    assert reason(INT4, n=64) == "results of 64 columns fill no tile"
    assert reason(INT4, dtype=torch.float32) == "8 rows of torch.float32 are not multiplied"
    assert reason(replace(INT4, groups=64)) == "groups are not of 128 numbers"
    assert reason(replace(INT4, groups=16)) == "groups are not of 128 numbers"
    assert reason(replace(INT4, groups=1)) == "scales are not those of groups of each row"
    assert reason(Storage("int8", "bfloat16", 4096, 1)) == "weights of int8 are not multiplied"


def test_other_gpus_have_none() -> None:
    if not narrow_plan.runs_here():
        assert narrow_plan.candidates(8, 4096, 4096, BF16, INT4) == ()

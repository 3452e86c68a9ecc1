"""Few rows by weights multiplied as they are stored, in CUDA C++: planned and compiled here, computed on the GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.cuda import narrow_plan, skinny_plan, why_unavailable
from autodeploy.kernels.cuda.compile import compiled
from autodeploy.kernels.cuda.lines import aligned, lines
from autodeploy.kernels.cuda.skinny_plan import SkinnyCut
from autodeploy.kernels.storage import PLAIN, Storage
from tests.kernels.steps import error

pytest.importorskip("triton")
from autodeploy.kernels.cuda import skinny

BF16, HALF, FP8 = torch.bfloat16, torch.float16, torch.float8_e4m3fn
TOLERANCE = 5e-3
KINDS = ("fp8", "w8a8", "int8", "bf16", "fp16")
CUTS = (
    (4096, 4096, SkinnyCut(8, 2, 6, resident=3)),
    (1000, 2048, SkinnyCut(16, 2, 3, resident=1)),
    (136, 14336, SkinnyCut(7, 4, 4, 4)),
    (1003, 14336, SkinnyCut(14, 2, 6, 2)),
)
"""A weight's size and a cut: columns shared by blocks or not, and rows of the weight that fill no tile."""


@dataclass(frozen=True)
class Case:
    """Rows and a weight, how the kernel sees them, and their product."""

    x: Tensor
    stored: skinny.Stored
    product: Tensor


def case_of(kind: str, m: int, n: int, k: int) -> Case:
    """A random case; rows of x have gaps between them."""
    dtype = HALF if kind == "fp16" else BF16
    x, weight = torch.randn(m, k + 64, device="cuda")[:, 64:], torch.randn(n, k, device="cuda") * k**-0.5
    if kind in ("bf16", "fp16"):
        rows, plain = x.to(dtype), weight.to(dtype)
        return Case(rows, skinny.Stored(plain), rows.double() @ plain.double().T)
    scale = torch.rand(n, 1, device="cuda") + 0.5
    stored = (weight * 400).to(FP8) if kind == "fp8" else (weight * 40 * k**0.5).clamp(-128, 127).to(torch.int8)
    scale = scale / (400 if kind == "fp8" else 40 * k**0.5)
    wide = stored.double() * scale.double()
    if kind == "int8":
        x = (x * torch.logspace(-3, 3, m, device="cuda")[:, None]).to(dtype)
        return Case(x, skinny.Stored(stored, scale), x.double() @ wide.T)
    x_scale = torch.rand(m, 1, device="cuda") + 0.5
    rows = x.to(FP8) if kind == "fp8" else (x * 40).clamp(-128, 127).to(torch.int8)
    x_scale = x_scale if kind == "fp8" else x_scale / 40
    return Case(rows, skinny.Stored(stored, scale, x_scale), (rows.double() * x_scale.double()) @ wide.T)


def close_rows(out: Tensor, expected: Tensor) -> bool:
    """Whether each row is close to what is expected, whatever the sizes of the others."""
    return all(error(one, other) <= TOLERANCE for one, other in zip(out, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("m", [1, 3, 4, 8])
@pytest.mark.parametrize(("n", "k", "cut"), CUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_cuts(kind: str, n: int, k: int, cut: SkinnyCut, m: int) -> None:
    """The same each time, where memory held no numbers before; each row as if it were alone."""
    if kind == "int8" and m > 4:
        pytest.skip("rows of two digits are at most four")
    case, dtype = case_of(kind, m, n, k), HALF if kind == "fp16" else BF16
    bias, residual = torch.randn(n, device="cuda").to(dtype), torch.randn(m, n, device="cuda").to(dtype)
    added = skinny.Added(bias, residual)
    outs = []
    for _ in range(4):
        poison = torch.full((m, n), torch.nan, dtype=dtype, device="cuda")
        del poison  # the next result lies where it was
        outs.append(skinny.run(case.x, case.stored, added, cut, dtype))
    assert close_rows(outs[0], case.product + bias.double() + residual.double())
    assert all(torch.equal(out, outs[0]) for out in outs)
    x_scale = None if case.stored.x_scale is None else case.stored.x_scale[m // 2, None]
    alone = skinny.run(
        case.x[m // 2, None],
        replace(case.stored, x_scale=x_scale),
        skinny.Added(bias, residual[m // 2, None]),
        cut,
        dtype,
    )
    assert alone[0].equal(outs[0][m // 2])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gate", sorted(ops.ACTIVATIONS))
def test_gates(kind: str, gate: str) -> None:
    case, dtype = case_of(kind, 4, 2 * 1004, 2048), HALF if kind == "fp16" else BF16
    if kind == "int8":
        case = Case(case.x[1:2], case.stored, case.product[1:2])
    bias = torch.randn(2 * 1004, device="cuda").to(dtype)
    cut = SkinnyCut(4, 2, 5, 2)
    out = skinny.run(case.x, case.stored, skinny.Added(bias), cut, dtype, gate)
    gates, ups = (case.product + bias.double()).chunk(2, dim=-1)
    assert close_rows(out, ops.gated_activation.reference(gates, ups, gate))


@pytest.mark.gpu
def test_rows_of_any_size() -> None:
    case = case_of("int8", 4, 256, 4096)
    x = torch.randn(4, 4096, device="cuda") * torch.tensor([0.0, 1e-20, 1e30, 1.0], device="cuda")[:, None]
    x[3, 5] = torch.nan
    out = skinny.run(x.to(BF16), case.stored, skinny.Added(), CUTS[0][2], BF16)
    assert case.stored.scale is not None
    wide = case.stored.weight.double() * case.stored.scale.double()
    assert not out[0].any()
    assert close_rows(out[1:3], x.to(BF16)[1:3].double() @ wide.T)
    assert out[3].isnan().all()


@pytest.mark.gpu
def test_one_scale_for_all() -> None:
    case = case_of("fp8", 6, 512, 4096)
    one = torch.tensor(0.25, device="cuda")
    out = skinny.bind_scaled(CUTS[0][2])(case.x, one, case.stored.weight, one[None, None], None, BF16)
    assert close_rows(out, case.x.double() @ case.stored.weight.double().T / 16)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (4096, 14336)])
def test_what_is_timed(kind: str, n: int, k: int) -> None:
    case, dtype = case_of(kind, 3, n, k), HALF if kind == "fp16" else BF16
    found = skinny_plan.candidates(3, n, k, dtype, storage_of(kind, n))
    assert found
    for cut in found:
        assert close_rows(bound(kind, case, cut, dtype), case.product), cut


def bound(kind: str, case: Case, cut: SkinnyCut, dtype: torch.dtype) -> Tensor:
    """The product by the operator for its kind."""
    x, stored = case.x, case.stored
    if kind == "int8":
        return skinny.bind_packed(cut)(x, stored.weight, stored.scale, None, None, None, "int8")
    if stored.x_scale is None:
        return skinny.bind(cut)(x, stored.weight)
    return skinny.bind_scaled(cut)(x, stored.x_scale, stored.weight, stored.scale, None, dtype)


def storage_of(kind: str, n: int) -> Storage:
    if kind in ("bf16", "fp16"):
        return PLAIN
    return Storage("fp8" if kind == "fp8" else "int8", "float32", n, 1, x_groups=-1 if kind == "int8" else 1)


@pytest.mark.slow
@pytest.mark.skipif(why_unavailable() is not None, reason="no compiler of CUDA C++ here")
@pytest.mark.parametrize("weight_dtype", [FP8, torch.int8, BF16])
def test_compiles(weight_dtype: torch.dtype) -> None:
    pytest.importorskip("nvidia.cu13", reason="NVRTC is not installed")
    scale = None if weight_dtype == BF16 else torch.empty(1000, 1, device="meta")
    stored = skinny.Stored(torch.empty(1000, 2048, dtype=weight_dtype, device="meta"), scale)
    for gate, cut in ((None, CUTS[0][2]), ("silu", SkinnyCut(4, 4, 3, 2))):
        x_dtype = FP8 if weight_dtype == FP8 else BF16
        code, said = compiled(skinny.variant_of(x_dtype, 2048, stored, BF16, cut, gate), (9, 0))
        assert code.startswith(b"\x7fELF")
        assert "error" not in said


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skinny_plan, "runs_here", lambda: True)


@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [4096, 14336])
def test_what_is_planned(kind: str, k: int) -> None:
    found = skinny_plan.candidates(4, 4096, k, HALF if kind == "fp16" else BF16, storage_of(kind, 4096))
    assert found
    assert len(set(found)) == len(found)
    for one in found:
        assert one.shared_bytes <= narrow_plan.SHARED_BYTES
        assert one.steps in (2, 4, 8), "a warp asks for whole rows, or several, at once"
        crowded = one.shared_bytes <= narrow_plan.SHARED_BYTES // 2 and (one.resident > 1 or one.team <= 8)
        assert not crowded, "two blocks would fit a multiprocessor"
        assert one.cuts(k * (2 if kind in ("bf16", "fp16") else 1))


@pytest.mark.usefixtures("on_hopper")
def test_what_is_left_to_others() -> None:
    def reason(storage: Storage, m: int = 8, n: int = 4096, k: int = 4096, dtype: torch.dtype = BF16) -> str | None:
        found = skinny_plan.declines(m, n, k, dtype, storage)
        assert bool(skinny_plan.candidates(m, n, k, dtype, storage)) is (found is None)
        return found

    fp8, int8 = storage_of("fp8", 4096), storage_of("int8", 4096)
    assert reason(PLAIN) is None
    assert reason(fp8) is None
    assert reason(fp8, dtype=HALF) is None
    assert reason(int8, m=4) is None
    assert reason(storage_of("w8a8", 4096)) is None
    assert reason(int8, m=5) == "5 rows are more than 4"
    assert reason(fp8, m=9) == "9 rows are more than 8"
    assert reason(PLAIN, n=64) == "weights of 64 rows occupy too few blocks"
    assert reason(PLAIN, dtype=torch.float32) == "plain weights with torch.float32 are not multiplied"
    assert reason(replace(fp8, format="int4")) == "int4 weights with torch.bfloat16 are not multiplied"
    assert reason(replace(fp8, groups=32)) == "scales are not those of rows"
    assert reason(replace(fp8, scale_rows=32)) == "scales are not those of rows"
    assert reason(replace(fp8, x_groups=32)) == "rows of x have several scales"
    assert reason(replace(fp8, x_groups=-1)) == "only int8 is multiplied by 16 bits"


@pytest.mark.usefixtures("on_hopper")
def test_rows_that_no_cut_divides_are_left_to_others() -> None:
    assert skinny_plan.candidates(8, 4096, 4096 + 32, BF16) == ()


def test_other_gpus_have_none() -> None:
    if not narrow_plan.runs_here():
        assert skinny_plan.candidates(8, 4096, 4096, BF16) == ()


def test_weights_that_do_not_begin_on_16_bytes_are_copied() -> None:
    numbers = torch.randn(65).bfloat16()
    assert aligned(numbers[1:].view(4, 16)).data_ptr() % 16 == 0
    assert aligned(numbers[1:].view(4, 16)).equal(numbers[1:].view(4, 16))
    assert aligned(numbers[:64].view(4, 16)).data_ptr() == numbers.data_ptr()


def test_rows_that_do_not_begin_on_16_bytes_are_copied() -> None:
    rows = torch.randn(3, 72).bfloat16()[:, 1:65]
    assert lines(rows).equal(rows)
    assert lines(rows).data_ptr() % 16 == 0
    whole = torch.randn(3, 64).bfloat16()
    assert lines(whole).data_ptr() == whole.data_ptr()

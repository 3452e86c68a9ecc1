"""Few rows, shared out among multiprocessors: the very values of the references."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.cuda import quantize, why_unavailable
from autodeploy.kernels.cuda.compile import Variant, compiled
from autodeploy.kernels.cuda.launch import launch
from autodeploy.ops import CanonicalOp
from tests.kernels.device import kernel
from tests.kernels.steps import error

pytest.importorskip("triton")
from autodeploy.kernels.triton import quantize as of_triton

FEW = (1, 8, 16)
WIDTHS = (40, 4096, 14336)
needs_compiler = pytest.mark.skipif(why_unavailable() is not None, reason="no compiler of CUDA C++ here")


def draw(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Rows of sizes of their own, one of zeros, at a distance from each other."""
    wide = torch.randn(rows, width + 64, device="cuda") * torch.logspace(-2, 1, rows, device="cuda")[:, None]
    wide[rows // 2] *= float(rows == 1)
    return wide.to(dtype)[:, 64:]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Variant]:
    """What is launched of the kernel."""
    found: list[Variant] = []
    run = launch

    def noted(variant: Variant, *rest: object) -> None:
        found.append(variant)
        run(variant, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(quantize, "launch", noted)
    return found


def reference(op: CanonicalOp, *args: object) -> tuple[Tensor, ...]:
    """On the CPU: PyTorch divides by a number exactly there, and by its reciprocal on a GPU."""
    results = op.reference(*(arg.cpu() if isinstance(arg, Tensor) else arg for arg in args))
    return tuple(one.cuda() for one in results)


def check(op: CanonicalOp, *args: object) -> None:
    """As the reference, bit for bit where nothing is computed before; else a few numbers may be rounded the other way,
    and the largest of a row with them."""
    for _ in range(2):
        *sums, values, scale = kernel(op).run(*args)
        *expected_sums, expected, expected_scale = reference(op, *args)
        assert (values.shape, values.dtype) == (expected.shape, expected.dtype)
        assert scale.shape == expected_scale.shape
        if op is ops.quantize:
            assert torch.equal(scale, expected_scale)
            assert torch.equal(values.float(), expected.float())
        assert error(scale, expected_scale) <= 4e-3
        assert error(values.float() * scale, expected.float() * expected_scale) <= 1e-2
        assert all(torch.equal(one, other) for one, other in zip(sums, expected_sums, strict=True))


@pytest.mark.gpu
@needs_compiler
@pytest.mark.parametrize("most", [1.0, 1.25, 1.75, 7.0])
def test_numbers_between_two_that_can_be_held(most: float) -> None:
    """Largest numbers of few bits, beside which one number in sixteen is."""
    x = torch.randn(2, 4096, device="cuda").bfloat16().clamp(-most, most)
    x[:, 7] = most
    check(ops.quantize, x, "fp8")
    check(ops.quantize, x, "int8")


@pytest.mark.gpu
@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", ["fp8", "int8"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", FEW)
def test_few_rows(rows: int, width: int, format: str, dtype: torch.dtype, launches: list[Variant]) -> None:
    x, other, weight = draw(rows, width, dtype), draw(rows, width, dtype), torch.randn(width, device="cuda").to(dtype)
    check(ops.quantize, x, format)
    check(ops.rms_norm_quantize, x, weight, 1e-5, 1.0, True, format)
    check(ops.rms_norm_quantize, x, None, 1e-5, 0.0, False, format, width)
    check(ops.add_rms_norm_quantize, x, other, weight, 1e-5, 0.0, False, format)
    check(ops.gated_activation_quantize, x, other, "silu", format)
    check(ops.gated_activation_quantize, x, other, "gelu_tanh", format)
    assert len(launches) == 12


@pytest.mark.gpu
@needs_compiler
def test_replays_find_new_rows() -> None:
    x = draw(3, 14336, torch.bfloat16)
    run = kernel(ops.quantize).run
    run(x, "fp8")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(x, "fp8")
    for _ in range(20):
        x.copy_(draw(3, 14336, torch.bfloat16))
        graph.replay()
        for one, expected in zip(out, reference(ops.quantize, x, "fp8"), strict=True):
            assert torch.equal(one.float(), expected.float())


@pytest.mark.gpu
@needs_compiler
@pytest.mark.parametrize(
    "call",
    [
        lambda x: of_triton.quantize(x.repeat(9, 1), "fp8"),
        lambda x: of_triton.quantize(x.float(), "fp8"),
        lambda x: of_triton.quantize(x, "fp8", 32),
        lambda x: of_triton.quantize(x, "fp8", 0, torch.ones((), device="cuda")),
        lambda x: of_triton.quantize(x[:, 1:], "fp8"),
        lambda x: of_triton.quantize(x[:, :60], "fp8"),
        lambda x: of_triton.gated_activation_quantize(x, x, "relu", "fp8"),
    ],
)
def test_what_is_left_to_triton(call: Callable[[Tensor], object], launches: list[Variant]) -> None:
    call(torch.randn(2, 64, device="cuda").bfloat16())
    assert not launches


@pytest.mark.parametrize("width", [8, 4096, 5120, 14336, 28672, 65536])
def test_how_rows_are_shared_out(width: int) -> None:
    cut = quantize.cut_of(width)
    assert cut.threads % 32 == 0
    assert 32 <= cut.threads <= 1024
    assert cut.parts * cut.threads * quantize.EACH >= width


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", [quantize.QUANTIZED, quantize.NORMED, quantize.GATED])
def test_it_compiles(kind: int) -> None:
    names = ("PARTS", "HALF", "INTEGER", "SUMMED", "WEIGHTED", "WIDE", "GATE")
    numbers = (("KIND", kind), ("THREADS", 224), *((name, 1 + (name == "PARTS")) for name in names))
    code, told = compiled(Variant("quantize.cu", "quantize", numbers), (9, 0))
    assert code
    assert "spill" not in told or "0 bytes spill" in told

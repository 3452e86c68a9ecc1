"""Times worked out by hand, and those that were measured."""

from __future__ import annotations

import pytest

from autodeploy.cost import Pace, Work
from autodeploy.cost.reach import GPU, REACH
from autodeploy.hardware import Measured, load_gpu

MATMUL = Work("a", "linear", "matmul", None, "bfloat16", {"w": 4.39e9}, num_flops=1e6)


def test_a_large_weight_takes_the_time_of_reading_it() -> None:
    timed = Pace.of(load_gpu("h200")).time(MATMUL)
    assert timed.seconds == pytest.approx(1e-3, rel=0.01)
    assert timed.bound == "memory"


def test_many_rows_take_the_time_of_the_arithmetic() -> None:
    work = Work("a", "linear", "matmul", None, "bfloat16", num_flops=796e12 * REACH.compute["matmul"])
    timed = Pace.of(load_gpu("h200")).time(work)
    assert timed.seconds == pytest.approx(1.0, rel=0.01)
    assert timed.bound == "compute"


def test_small_work_is_bound_by_launches_and_counts_as_often_as_it_stands() -> None:
    timed = Pace.of(load_gpu("h200")).time(Work("a", "add", "rows", None, "bfloat16", row_bytes=64, times=10))
    assert timed.seconds == pytest.approx(10 * GPU.kernels["rows"], rel=0.01)
    assert timed.bound == "launches"


@pytest.mark.parametrize(
    ("rows", "n", "k", "microseconds"),
    [
        (1, 6144, 4096, 13.4),
        (64, 6144, 4096, 16.2),
        (1, 28672, 4096, 53.3),
        (64, 28672, 4096, 59.3),
        (64, 4096, 14336, 32.4),
        (256, 4096, 14336, 52.6),
        (1, 128256, 4096, 226.9),
    ],
)
def test_matmuls_take_about_what_they_were_measured_to(rows: int, n: int, k: int, microseconds: float) -> None:
    """The kernels of `benchmarks/results/kernels_h200.json`, and of a profiled step of 256 requests."""
    work = Work("a", "linear", "matmul", None, "bfloat16", {"w": 2.0 * n * k}, num_flops=2.0 * rows * n * k)
    assert 1e6 * Pace.of(load_gpu("h200")).time(work).seconds == pytest.approx(microseconds, rel=0.12)


@pytest.mark.parametrize(
    ("scheme", "rows", "n", "k", "microseconds"),
    [
        ("fp8", 1, 28672, 4096, 28.6),
        ("fp8", 64, 28672, 4096, 35.0),
        ("fp8", 256, 28672, 4096, 53.5),
        ("fp8", 256, 4096, 14336, 33.9),
        ("int8", 1, 28672, 4096, 29.5),
        ("int8", 64, 28672, 4096, 68.5),
        ("int4", 1, 28672, 4096, 20.8),
        ("int4", 1, 4096, 14336, 13.1),
        ("int4", 1, 6144, 4096, 6.1),
        ("int4", 64, 28672, 4096, 60.4),
        ("int4", 64, 4096, 14336, 32.5),
    ],
)
def test_matmuls_of_narrow_weights_take_about_what_they_were_measured_to(
    scheme: str, rows: int, n: int, k: int, microseconds: float
) -> None:
    bits, computed = {"fp8": (8, "float8_e4m3fn"), "int8": (8, "bfloat16"), "int4": (4.125, "bfloat16")}[scheme]
    decoded = 0.0 if scheme == "fp8" else n * k
    flops = 2.0 * rows * n * k
    work = Work("a", "b", "matmul", None, computed, {"w": bits / 8 * n * k}, 0.0, 0.0, flops, 1.0, True, decoded)
    assert 1e6 * Pace.of(load_gpu("h200")).time(work).seconds == pytest.approx(microseconds, rel=0.2)


def test_many_rows_wait_for_their_first_weights() -> None:
    pace = Pace.of(load_gpu("h200"))

    def matmul(rows: int) -> Work:
        return Work("a", "b", "matmul", None, "float8_e4m3fn", {"w": 4096.0**2}, num_flops=2.0 * rows * 4096**2)

    few, many = (pace.time(matmul(rows)).seconds for rows in (8, 9))
    assert many - few == pytest.approx(GPU.many_rows, rel=0.1)


def test_a_host_that_prepares_longer_than_the_device_computes_bounds_a_step() -> None:
    step = Pace.of(load_gpu("h200")).step([Work("a", "add", "rows", None, "bfloat16", row_bytes=64)], 256)
    assert step.seconds == pytest.approx(GPU.step + 256 * GPU.request)
    assert step.bound == "launches"


def test_a_datasheet_is_never_reached() -> None:
    a100 = load_gpu("a100")
    pace = Pace.of(a100)
    assert pace.read < a100.bandwidth_gb_s * 1e9
    assert pace.rate("bfloat16") < a100.tflops["bf16"] * 1e12
    measured = a100.model_copy(update={"measured": Measured(read_gb_s=1800, tflops={"bf16": 250}, source="here")})
    assert Pace.of(measured).read == 1.8e12
    assert Pace.of(measured).rate("bfloat16") == 250e12


def test_what_is_measured_now_replaces_what_was_known() -> None:
    pace = Pace.of(load_gpu("h200")).measured(4000, 700, "bfloat16")
    assert (pace.read, pace.rate("bfloat16")) == (4e12, 700e12)


def test_a_made_up_gpu_with_one_rate_computes_everything_at_it() -> None:
    gpu = load_gpu("h200").model_copy(update={"tflops": {"bf16": 100.0}, "measured": None})
    assert Pace.of(gpu).rate("float32") == pytest.approx(80e12)

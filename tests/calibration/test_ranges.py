"""Ranges next to modelopt's own calibrators, and to plain formulas where those are wrong or decline."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.calibration.ranges import BINS, Histogram, find_range
from autodeploy.quantization.formats import MAXIMUM


@pytest.fixture(scope="module")
def calib() -> Any:
    """Its calibrators, whose import takes seconds that a process without these tests keeps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("modelopt.torch.quantization.calib")


@pytest.fixture(scope="module")
def values() -> list[Tensor]:
    """Windows of activations: most of them small, a few channels ten times as large."""
    generator = torch.manual_seed(3)
    channels = torch.where(torch.arange(64) % 16 == 0, 10.0, 1.0)
    return [torch.randn(1, 40, 64, generator=generator) * channels for _ in range(4)]


def modelopt_range(calib: Any, values: list[Tensor], method: str) -> float:
    collector = calib.HistogramCalibrator(8, None, False, num_bins=BINS)
    collector.collect(torch.cat(values))  # at once: its bins would otherwise depend on the first window
    return float(collector.compute_amax(method))


def rounding_loss(values: list[Tensor], largest: float, format: str) -> float:
    scale = largest / MAXIMUM[format]
    units = (torch.cat(values).double() / scale).clamp(-MAXIMUM[format], MAXIMUM[format])
    rounded = units.round() if format == "int8" else units.float().to(torch.float8_e4m3fn).double()
    return float((rounded * scale - torch.cat(values).double()).square().mean())


def test_max_is_modelopts(calib: Any, values: list[Tensor]) -> None:
    collector = calib.MaxCalibrator(8, None, False)
    for one in values:
        collector.collect(one)
    assert find_range(values, "max", "int8") == pytest.approx(float(collector.compute_amax()))


def test_percentile_is_modelopts_but_for_a_bin(calib: Any, values: list[Tensor]) -> None:
    width = find_range(values, "max", "int8") / BINS
    assert find_range(values, "percentile", "int8") == pytest.approx(
        modelopt_range(calib, values, "percentile"), abs=1.01 * width
    )


def test_percentile_leaves_out_one_in_ten_thousand(values: list[Tensor]) -> None:
    largest = find_range(values, "percentile", "fp8")
    assert 0.9999 <= float((torch.cat(values).abs() <= largest).float().mean()) < 1


def test_entropy_is_close_to_modelopts(calib: Any, values: list[Tensor]) -> None:
    """Theirs cuts the range into 128 equal parts, ours rounds to 127 numbers, and the minimum is flat."""
    assert find_range(values, "entropy", "int8") == pytest.approx(modelopt_range(calib, values, "entropy"), rel=0.25)


@pytest.mark.parametrize("format", ["int8", "fp8"])
def test_no_other_range_loses_less(values: list[Tensor], format: str) -> None:
    found = rounding_loss(values, find_range(values, "mse", format), format)
    largest = find_range(values, "max", format)
    others = [rounding_loss(values, largest * part / 40, format) for part in range(4, 41)]
    assert found <= min(others) * 1.01


def test_modelopts_own_mse_loses_more(calib: Any, values: list[Tensor]) -> None:
    """The reason that its histograms are not taken; where this fails, they can be."""
    ours, theirs = find_range(values, "mse", "int8"), modelopt_range(calib, values, "mse")
    assert rounding_loss(values, theirs, "int8") > 10 * rounding_loss(values, ours, "int8")


def test_outliers_are_cut_by_all_but_max(values: list[Tensor]) -> None:
    wild = [*values, torch.full((1, 1, 64), 2000.0)[..., :1]]
    found = {method: find_range(wild, method, "int8") for method in ("max", "percentile", "entropy")}
    assert found["max"] == 2000.0
    assert found["entropy"] < 1000


@pytest.mark.parametrize("method", ["max", "percentile", "mse", "entropy"])
def test_zeros_have_no_range(method: str) -> None:
    assert find_range([torch.zeros(3, 4)], method, "int8") == 0.0


def test_a_histogram_counts_every_value(values: list[Tensor]) -> None:
    histogram = Histogram.of(values)
    assert histogram.counts.sum() == sum(one.numel() for one in values)

"""How large a number is kept: ranges of values, by the methods of Wu et al. (2020), "Integer Quantization".

What lies beyond the range saturates; the smaller it is, the finer is the grid of what lies within.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from autodeploy.quantization.formats import MAXIMUM

BINS = 2048
FIRST_BIN = 128
"""The smallest range that is tried, in bins."""
STRIDE = 8
"""The bins between two ranges that are tried."""
PERCENTILE = 99.99


@dataclass(frozen=True)
class Histogram:
    """How many magnitudes lie in each bin: `counts [BINS]`, float64, of equal bins from 0 to `largest`."""

    counts: Tensor
    largest: float

    @classmethod
    def of(cls, values: Sequence[Tensor]) -> Histogram:
        """Of tensors of any shape."""
        largest = max(float(one.abs().amax()) for one in values)
        counts = sum(torch.histc(one.abs().float(), BINS, 0, largest or 1.0).double() for one in values)
        assert isinstance(counts, Tensor), "there are values"
        return cls(counts.cpu(), largest)

    @property
    def centers(self) -> Tensor:
        """The middle of each bin, float64."""
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * self.largest / BINS

    def edge(self, index: int) -> float:
        """The upper end of the first `index` bins."""
        return self.largest * index / BINS


def find_range(values: Sequence[Tensor], method: str, format: str) -> float:
    """The largest magnitude to keep of `values` in `format` ("int8" or "fp8"); 0 where there are only zeros."""
    histogram = Histogram.of(values)
    return _METHODS[method](histogram, format) if histogram.largest else 0.0


def _max(histogram: Histogram, format: str) -> float:
    return histogram.largest


def _percentile(histogram: Histogram, format: str) -> float:
    """The bin below whose end 99.99 % lie."""
    part = histogram.counts.cumsum(0) / histogram.counts.sum()
    return histogram.edge(int(torch.searchsorted(part, PERCENTILE / 100)) + 1)


def _mse(histogram: Histogram, format: str) -> float:
    """The range whose rounded values are least far from the values, squared."""
    centers, counts = histogram.centers, histogram.counts

    def loss(last: int) -> float:
        rounded = _rounded(centers, histogram.edge(last), format)
        return float(((rounded - centers).square() * counts).sum())

    return histogram.edge(min(_tried(), key=loss))


def _entropy(histogram: Histogram, format: str) -> float:
    """The range whose rounded values tell most of the distribution: the least Kullback-Leibler divergence.

    The first bin, with its many zeros, counts as the next: whatever the range, it is rounded to zero.
    """
    counts = histogram.counts.clone()
    counts[0] = counts[1]
    return histogram.edge(min(_tried(), key=lambda last: _divergence(histogram, counts, last, format)))


_METHODS: Mapping[str, Callable[[Histogram, str], float]] = MappingProxyType(
    {"max": _max, "percentile": _percentile, "mse": _mse, "entropy": _entropy}
)


def _tried() -> range:
    return range(FIRST_BIN, BINS + 1, STRIDE)


def _divergence(histogram: Histogram, counts: Tensor, last: int, format: str) -> float:
    """Of what is left of the distribution by rounding its first `last` bins, from what it is with the rest saturated.

    Rounding spreads what falls on one number evenly over the bins that do, but for the empty ones.
    """
    kept = counts[:last]
    saturated = kept.clone()
    saturated[-1] += counts[last:].sum()
    rounded = _rounded(histogram.centers[:last], histogram.edge(last), format)
    levels = torch.searchsorted(torch.unique_consecutive(rounded), rounded)
    filled = (kept > 0).double()
    number = int(levels.max()) + 1
    sums, sizes = (torch.zeros(number, dtype=torch.float64).index_add(0, levels, one) for one in (kept, filled))
    spread = (sums / sizes.clamp(min=1))[levels] * filled
    told, said = saturated / saturated.sum(), spread / spread.sum()
    known = told > 0
    return float((told[known] * (told[known] / said[known].clamp(min=torch.finfo(torch.float64).tiny)).log()).sum())


def _rounded(values: Tensor, largest: float, format: str) -> Tensor:
    scale = largest / MAXIMUM[format]
    units = (values / scale).clamp(max=MAXIMUM[format])
    if format == "int8":
        return units.round() * scale
    return units.float().to(torch.float8_e4m3fn).double() * scale

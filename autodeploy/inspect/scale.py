"""Axes of plots: what is drawn where, and which numbers stand beside."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` onto pixels from `start` to `stop`, by their logarithms where `is_log`."""

    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; what lies outside is drawn at the edge."""
        value = min(max(value, self.low), self.high)
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self) -> Iterator[float]:
        """Round values to write: powers of ten, or at most six multiples of 1, 2 or 5."""
        if self.is_log:
            for power in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1):
                yield 10.0**power
            return
        step = _round_step((self.high - self.low) / 5)
        for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield number * step


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def decades(low: float, high: float) -> tuple[float, float]:
    """The powers of ten around a range, at least one apart."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return 10.0**first, 10.0 ** max(last, first + 1)

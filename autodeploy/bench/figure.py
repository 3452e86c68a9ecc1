"""What a run found: a figure, its unit, and how far it is from what the device allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One row of a report. `floor` is in the unit of `value`, None where the hardware sets no floor to it.

    `bound` says what makes the floor: "memory" (bytes to read) or "compute". `predicted` is what the cost model says of
    the device's ceilings, None where it says nothing.
    """

    run: str
    metric: str
    value: float
    unit: str
    higher_is_better: bool = False
    floor: float | None = None
    bound: str | None = None
    predicted: float | None = None

    @property
    def key(self) -> str:
        """What names the same row in another report."""
        return f"{self.run} {self.metric}"

    @property
    def fraction(self) -> float | None:
        """How much of the floor is reached: 1 would be all that the device can do."""
        if self.floor is None:
            return None
        return self.value / self.floor if self.higher_is_better else self.floor / self.value

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON data."""
        return {**vars(self), "fraction": self.fraction}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Figure:
        """A row that `as_dict` wrote."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


def figure_table(figures: Iterable[Figure], title: str, caption: str) -> Table:
    """A line for each figure; `caption` says which ceilings the floors were computed from."""
    result = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    result.caption, result.caption_justify, result.caption_style = caption, "left", "dim"
    result.add_column("run", no_wrap=True)
    result.add_column("what")
    for heading in ("figure", "unit", "predicted", "floor", "of the floor", "bound by"):
        result.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
    for one in figures:
        fraction = "" if one.fraction is None else f"{100 * one.fraction:.1f} %"
        floor = "" if one.floor is None else rounded(one.floor)
        predicted = "" if one.predicted is None else rounded(one.predicted)
        result.add_row(one.run, one.metric, rounded(one.value), one.unit, predicted, floor, fraction, one.bound or "")
    return result


def rounded(value: float) -> str:
    """Four digits of a figure, all of those before its point."""
    digits = max(0, 4 - len(str(int(abs(value)))))
    return f"{value:,.{digits}f}"

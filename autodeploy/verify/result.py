"""What verification found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from rich.console import Group
from rich.table import Table
from rich.text import Text

from autodeploy.verify.difference import Difference, worst
from autodeploy.verify.rewrite import Rewrite


@dataclass(frozen=True)
class Check:
    """A state of the graph against an earlier one, on each kind of sample.

    `drift` is the relative error against the traced graph in float32, where this ran in another dtype. `failure` says
    what is too far off, or is None.
    """

    name: str
    bound: str
    differences: Mapping[str, Difference]
    drift: float | None = None
    failure: str | None = None

    @property
    def worst(self) -> Difference:
        """Each figure at its worst over the samples."""
        return worst(self.differences.values())


@dataclass(frozen=True)
class Trial:
    """One run of a pipeline in one dtype: a check of each pass, and one of the last graph against the first."""

    dtype: str
    checks: tuple[Check, ...]
    end_to_end: Check

    def __rich__(self) -> Table:
        """A row for each pass."""
        return _table(f"Verified in {self.dtype}", (*self.checks, self.end_to_end))


@dataclass(frozen=True)
class Finding:
    """The evidence against a pass: the checks up to the one that failed, and the rewrite at fault if one was found."""

    dtype: str
    checks: tuple[Check, ...]
    rewrite: Rewrite | None

    def __rich__(self) -> Group:
        """The checks as a table, then the rewrite."""
        table = _table(f"Checked in {self.dtype}", self.checks)
        return Group(table, Text(), self.rewrite) if self.rewrite else Group(table)


@dataclass(frozen=True)
class Verification:
    """Every pass kept the numbers within what it declares.

    `samples` counts the rows of results of each kind: a row for each token, or for whatever a module gives.
    """

    trials: tuple[Trial, ...]
    samples: Mapping[str, int]
    device: str

    def __rich__(self) -> Group:
        """A table for each dtype."""
        counts = ", ".join(f"{count} of {kind}" for kind, count in self.samples.items())
        return Group(*self.trials, Text(f"Rows: {counts}; on {self.device}.", "dim"))

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON data."""
        data: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json")
        return data

    @classmethod
    def from_dict(cls, data: object) -> Verification:
        """The result from data that `as_dict` gave."""
        return TypeAdapter(cls).validate_python(data)


def _table(title: str, checks: tuple[Check, ...]) -> Table:
    """Figures at their worst over the samples, one row a check."""
    result = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    drifts = any(one.drift is not None for one in checks)
    tokens = any(one.worst.kl is not None for one in checks)
    result.add_column("pass", no_wrap=True)
    of_tokens, of_dtype = ["KL, nats", "same top-1"] if tokens else [], ["from float32"] if drifts else []
    for heading in ("max abs", "relative", *of_tokens, *of_dtype, "bound"):
        result.add_column(heading, justify="right")
    for one in checks:
        result.add_row(one.name, *_figures(one), one.bound, style="red" if one.failure else None)
    return result


def _figures(check: Check) -> list[str]:
    """The figures of a row, without those that are not known."""
    found = check.worst
    errors = [one for one in (found.max_abs, found.relative, found.kl) if one is not None]
    top1 = [f"{100 * found.top1:.1f} %"] if found.top1 is not None else []
    drift = [f"{check.drift:.1e}"] if check.drift is not None else []
    return [*("0" if found.bitwise else f"{error:.1e}" for error in errors), *top1, *drift]

"""What a benchmark reports: figures and profiles, and how they compare with an earlier report."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from autodeploy.bench.ceilings import Ceilings
from autodeploy.bench.figure import Figure, figure_table, rounded
from autodeploy.bench.profile import StepProfile
from autodeploy.errors import InputError


@dataclass(frozen=True)
class Report:
    """The figures of some workloads on one model, and where the time of their steps goes."""

    model: str
    dtype: str
    context: dict[str, Any]
    ceilings: Ceilings
    figures: tuple[Figure, ...]
    profiles: tuple[StepProfile, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data."""
        return {
            "model": self.model,
            "dtype": self.dtype,
            **self.context,
            "ceilings": self.ceilings.as_dict(),
            "figures": [one.as_dict() for one in self.figures],
            "profiles": [one.as_dict() for one in self.profiles],
        }

    def save(self, path: Path) -> None:
        """Write the report to a file; InputError when that cannot be."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        except OSError as error:
            raise InputError(f"--save {path}: {error.strerror}; give a report that bench --save wrote") from error

    def __rich__(self) -> Group:
        """The figures, then each profile."""
        title = f"Speed of {self.model} in {self.dtype}"
        parts: list[Table | StepProfile | Text] = [figure_table(self.figures, title, self.ceilings.sentence())]
        for one in self.profiles:
            parts += [Text(), one]
        return Group(*parts)


@dataclass(frozen=True)
class Change:
    """A figure that two reports have."""

    before: Figure
    after: Figure

    @property
    def percent(self) -> float:
        """By how much it got better; negative when it got worse."""
        ratio = self.after.value / self.before.value
        return 100 * ((ratio if self.after.higher_is_better else 1 / ratio) - 1)

    def sentence(self) -> str:
        """Before and after."""
        before, after = self.before, self.after
        return f"{after.key}: {rounded(before.value)} -> {rounded(after.value)} {after.unit} ({self.percent:+.1f} %)"


@dataclass(frozen=True)
class Comparison:
    """A report against an earlier one: a figure has got worse when it lost more than `tolerance` percent."""

    changes: tuple[Change, ...]
    tolerance: float
    missing: tuple[str, ...] = ()
    """What only the new report has."""

    @property
    def worse(self) -> tuple[Change, ...]:
        """What got worse."""
        return tuple(one for one in self.changes if one.percent < -self.tolerance)

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON data."""
        changes = [{"row": one.after.key, "before": one.before.value, "percent": one.percent} for one in self.changes]
        worse = [one.after.key for one in self.worse]
        return {"tolerance": self.tolerance, "changes": changes, "worse": worse, "missing": list(self.missing)}

    def __rich__(self) -> Group:
        """A line for each figure, those that got worse in red."""
        worse = self.worse
        head = Text(f"Against the baseline, {len(worse)} of {len(self.changes)} got worse:", "bold")
        lines = [Text(f"  {one.sentence()}", "red" if one in worse else "") for one in self.changes]
        others = [Text(f"  {key}: not in the baseline", "dim") for key in self.missing]
        return Group(head, *lines, *others)


def read_figures(path: Path) -> list[Figure]:
    """The figures of a report that was saved; InputError for a file that is none."""
    try:
        return [Figure.from_dict(one) for one in json.loads(path.read_text())["figures"]]
    except OSError as error:
        raise InputError(f"--baseline {path}: {error.strerror}; give a report that bench --save wrote") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--baseline {path}: not a report that bench --save wrote") from error


def compare(figures: Iterable[Figure], baseline: Iterable[Figure], tolerance: float) -> Comparison:
    """Compare row by row what both have; InputError when they have nothing in common."""
    before = {one.key: one for one in baseline}
    after = list(figures)
    changes = tuple(Change(before[one.key], one) for one in after if one.key in before)
    if not changes:
        raise InputError(f"--baseline: it has none of these runs; it has {', '.join(sorted(before)) or 'none at all'}")
    return Comparison(changes, tolerance, tuple(one.key for one in after if one.key not in before))

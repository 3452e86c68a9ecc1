"""What was chosen: for each operator that is tuned and number of rows, a backend and how it runs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from autodeploy.kernels.attention import Attention
from autodeploy.kernels.storage import Storage
from autodeploy.tuning.matmul import Matmul

Site = Matmul | Attention
"""What choices are made for."""


@dataclass(frozen=True)
class Way:
    """A backend, how it runs, and the time of a call inside a CUDA graph.

    `config` is what the kernel's `tunable` makes a configuration of; None where it has none.
    """

    backend: str
    config: Mapping[str, Any] | None
    seconds: float

    def __str__(self) -> str:
        how = "" if self.config is None else " " + ", ".join(f"{key} {value}" for key, value in self.config.items())
        return f"{self.backend}{how}"


@dataclass(frozen=True)
class Choice:
    """A way to compute something of `rows` rows that gave the right numbers: the fastest alone, or in a layer.

    `floor_seconds` is what the device needs at least to read and compute as much, 0 where nobody knows; the runner-up
    is the fastest of another backend or configuration, and `close` are a few that take little longer than the fastest.
    Where the time of a whole layer decided, `layer_seconds` is that, and before it was with another choice; else 0.
    """

    rows: int
    backend: str
    config: Mapping[str, Any] | None
    seconds: float
    runner_up: str = ""
    runner_up_seconds: float = 0.0
    floor_seconds: float = 0.0
    close: tuple[Way, ...] = ()
    layer_seconds: float = 0.0
    layer_seconds_before: float = 0.0

    @property
    def way(self) -> Way:
        """What is chosen."""
        return Way(self.backend, self.config, self.seconds)

    @property
    def floor_fraction(self) -> float:
        """How much of its time the device could not have done without."""
        return self.floor_seconds / self.seconds if self.seconds else 0.0

    def instead(self, way: Way) -> Choice:
        """Another choice: one of `close`, which then has the old one."""
        others = tuple(sorted((one for one in (self.way, *self.close) if one != way), key=lambda one: one.seconds))
        new = replace(self, backend=way.backend, config=way.config, seconds=way.seconds, close=others)
        return replace(new, runner_up=str(others[0]), runner_up_seconds=others[0].seconds)

    def __str__(self) -> str:
        behind = f" (then {self.runner_up}, {self.runner_up_seconds * 1e6:.1f})" if self.runner_up else ""
        floor = f", {self.floor_fraction:.2f} of the floor" if self.floor_seconds else ""
        layers = f"{self.layer_seconds * 1e6:.1f} us with it, {self.layer_seconds_before * 1e6:.1f} without"
        settled = f"; a layer takes {layers}" if self.layer_seconds else ""
        return f"up to {self.rows} rows by {self.way} in {self.seconds * 1e6:.1f} us{floor}{behind}{settled}"


Chosen = Mapping[Site, Choice]
"""What runs the sites of a layer, for one number of rows."""


@dataclass(frozen=True)
class Choices:
    """The choices for some sites, by the number of rows; an immutable value."""

    entries: Mapping[Site, tuple[Choice, ...]] = field(default_factory=dict)

    def find(self, site: Site, rows: int) -> Choice | None:
        """The choice for the least measured number of rows that is not below `rows`; None past the last."""
        choices = self.entries.get(site, ())
        place = bisect_left(choices, rows, key=lambda choice: choice.rows)
        return choices[place] if place < len(choices) else None

    def missing(
        self, sites: Iterable[Site], rows_of: Callable[[Site], Iterable[int]] = lambda _: ()
    ) -> tuple[Site, ...]:
        """Those that nothing is known of, or not all the numbers of rows that `rows_of` gives."""
        return tuple(site for site in sites if not self._reach(site, rows_of(site)))

    def _reach(self, site: Site, rows: Iterable[int]) -> bool:
        known = {choice.rows for choice in self.entries.get(site, ())}
        return bool(known) and known.issuperset(rows)

    def only(self, sites: Iterable[Site]) -> Choices:
        """Those for `sites`."""
        return Choices({site: self.entries[site] for site in sites if site in self.entries})

    def updated(self, other: Choices) -> Choices:
        """These, with those of `other` in place of the ones for the same site and number of rows."""
        entries = dict(self.entries)
        for site, choices in other.entries.items():
            by_rows = {choice.rows: choice for choice in (*self.entries.get(site, ()), *choices)}
            entries[site] = tuple(by_rows[rows] for rows in sorted(by_rows))
        return Choices(entries)

    def __or__(self, other: Choices) -> Choices:
        """Both, where `other` wins."""
        return Choices({**self.entries, **other.entries})

    def __iter__(self) -> Iterator[tuple[Site, Choice]]:
        for site, choices in self.entries.items():
            for choice in choices:
                yield site, choice

    def as_data(self) -> list[dict[str, Any]]:
        """The choices as JSON data."""
        return [
            {**asdict(site), "choices": [_choice_data(choice) for choice in choices]}
            for site, choices in sorted(self.entries.items(), key=lambda entry: str(entry[0]))
        ]

    @classmethod
    def from_data(cls, data: list[dict[str, Any]]) -> Choices:
        """The choices from what `as_data` gave; raises KeyError or TypeError for anything else."""
        entries: dict[Site, tuple[Choice, ...]] = {}
        for one in data:
            choices = (_choice_from(choice) for choice in one["choices"])
            entries[_site_from(one)] = tuple(sorted(choices, key=lambda choice: choice.rows))
        return cls(entries)


def choices_from(data: Mapping[str, Any]) -> Choices:
    """The choices of a file, which once held those of matmuls alone; raises KeyError or TypeError for anything else."""
    return Choices.from_data(data["choices"] if "choices" in data else data["matmuls"])


def _choice_data(choice: Choice) -> dict[str, Any]:
    """As JSON has it, which knows no tuples."""
    data = asdict(choice)
    return {**data, "close": list(data["close"])}


def _choice_from(data: Mapping[str, Any]) -> Choice:
    close = tuple(Way(**way) for way in data.get("close", ()))  # there were none before layers were timed
    return Choice(**{**data, "close": close})


def _site_from(data: Mapping[str, Any]) -> Site:
    fields = {key: value for key, value in data.items() if key != "choices"}
    if "heads" in fields:
        return Attention(**fields)
    storage = Storage(**fields.pop("storage", {}))  # there was none before weights could be quantized
    return Matmul(**fields, storage=storage)

"""What was chosen: for each matmul and number of rows, a backend and how it runs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from autodeploy.kernels.storage import Storage
from autodeploy.tuning.matmul import MATMULS, Matmul

__all__ = ["MATMULS", "Choice", "Choices", "Matmul"]


@dataclass(frozen=True)
class Choice:
    """The fastest way to compute a matmul of `rows` rows that gave the right numbers.

    `config` is what the kernel's `tunable` makes a configuration of; None where it has none. `seconds` is the time of a
    call inside a CUDA graph; the runner-up is the fastest of another backend or configuration.
    """

    rows: int
    backend: str
    config: Mapping[str, Any] | None
    seconds: float
    runner_up: str = ""
    runner_up_seconds: float = 0.0

    def __str__(self) -> str:
        how = "" if self.config is None else " " + ", ".join(f"{key} {value}" for key, value in self.config.items())
        behind = f" (then {self.runner_up}, {self.runner_up_seconds * 1e6:.1f})" if self.runner_up else ""
        return f"up to {self.rows} rows by {self.backend}{how} in {self.seconds * 1e6:.1f} us{behind}"

    def floor_fraction(self, matmul: Matmul, bytes_per_second: float) -> float:
        """How much of the time the memory needs for the weight alone."""
        return matmul.weight_bytes / bytes_per_second / self.seconds


@dataclass(frozen=True)
class Choices:
    """The choices for some matmuls, by the number of rows; an immutable value."""

    entries: Mapping[Matmul, tuple[Choice, ...]] = field(default_factory=dict)

    def find(self, matmul: Matmul, rows: int) -> Choice | None:
        """The choice for the least measured number of rows that is not below `rows`; None past the last."""
        choices = self.entries.get(matmul, ())
        place = bisect_left(choices, rows, key=lambda choice: choice.rows)
        return choices[place] if place < len(choices) else None

    def missing(
        self, matmuls: Iterable[Matmul], rows_of: Callable[[Matmul], Iterable[int]] = lambda _: ()
    ) -> tuple[Matmul, ...]:
        """Those that nothing is known of, or not all the numbers of rows that `rows_of` gives."""
        return tuple(matmul for matmul in matmuls if not self._reach(matmul, rows_of(matmul)))

    def _reach(self, matmul: Matmul, rows: Iterable[int]) -> bool:
        known = {choice.rows for choice in self.entries.get(matmul, ())}
        return bool(known) and known.issuperset(rows)

    def only(self, matmuls: Iterable[Matmul]) -> Choices:
        """Those for `matmuls`."""
        return Choices({matmul: self.entries[matmul] for matmul in matmuls if matmul in self.entries})

    def __or__(self, other: Choices) -> Choices:
        """Both, where `other` wins."""
        return Choices({**self.entries, **other.entries})

    def __iter__(self) -> Iterator[tuple[Matmul, Choice]]:
        for matmul, choices in self.entries.items():
            for choice in choices:
                yield matmul, choice

    def as_data(self) -> list[dict[str, Any]]:
        """The choices as JSON data."""
        return [
            {**asdict(matmul), "choices": [asdict(choice) for choice in choices]}
            for matmul, choices in sorted(self.entries.items())
        ]

    @classmethod
    def from_data(cls, data: list[dict[str, Any]]) -> Choices:
        """The choices from what `as_data` gave; raises KeyError or TypeError for anything else."""
        entries = {}
        for one in data:
            choices = tuple(sorted((Choice(**choice) for choice in one["choices"]), key=lambda choice: choice.rows))
            storage = Storage(**one.get("storage", {}))  # there was none before weights could be quantized
            entries[Matmul(one["n"], one["k"], one["dtype"], one["has_bias"], one["gate"], storage)] = choices
        return cls(entries)

"""What was chosen: for each matmul and number of rows, a backend and how it runs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.fx import Graph, Node

from autodeploy.graph.nodes import arguments, calls_of, value

linear_op = torch.ops.autodeploy.linear.default
gated_linear_op = torch.ops.autodeploy.gated_linear.default
MATMULS = (linear_op, gated_linear_op)
"""The operators that are tuned."""


@dataclass(frozen=True, order=True)
class Matmul:
    """A projection of some rows `[M, k]` by a weight `[n, k]`, apart from M.

    `gate` is the kind of a `gated_linear`, and empty for a plain one.
    """

    n: int
    k: int
    dtype: str
    has_bias: bool = False
    gate: str = ""

    @classmethod
    def of(cls, call: Node) -> Matmul:
        """What a call of one of `MATMULS` computes."""
        named = arguments(call)
        weight = value(named["weight"])
        dtype = str(weight.dtype).removeprefix("torch.")
        n, k = map(int, weight.shape)
        return cls(n, k, dtype, named["bias"] is not None, named.get("kind", ""))

    @property
    def op(self) -> torch._ops.OpOverload:
        """The operator that computes it; it takes rows, weight, bias and `options`."""
        return gated_linear_op if self.gate else linear_op

    @property
    def options(self) -> tuple[str, ...]:
        """What the operator takes besides tensors."""
        return (self.gate,) if self.gate else ()

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the rows and the weight."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def weight_bytes(self) -> int:
        """What a step must read of it at least."""
        return self.n * self.k * self.torch_dtype.itemsize

    def __str__(self) -> str:
        return f"[{self.n}, {self.k}] {self.dtype}" + " + bias" * self.has_bias + f" {self.gate}".rstrip()


def matmuls_of(graph: Graph) -> tuple[Matmul, ...]:
    """The distinct projections of a graph."""
    return tuple(sorted({Matmul.of(call) for call in calls_of(graph, *MATMULS)}))


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

    def missing(self, matmuls: Iterable[Matmul]) -> tuple[Matmul, ...]:
        """Those that nothing is known of."""
        return tuple(matmul for matmul in matmuls if matmul not in self.entries)

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
            entries[Matmul(one["n"], one["k"], one["dtype"], one["has_bias"], one["gate"])] = choices
        return cls(entries)

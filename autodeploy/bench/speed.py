"""How fast a program serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

from autodeploy.bench.measure import Load, Timing, spread, time_load
from autodeploy.runtime.engine import Engine


@dataclass(frozen=True)
class LoadSpeed:
    """Medians of some rounds under one load; `step_spread_ms` holds half of the rounds."""

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    prefill_ms: float
    step_ms: float
    step_spread_ms: tuple[float, float]

    @classmethod
    def of(cls, load: Load, timings: Sequence[Timing]) -> LoadSpeed:
        """Sum up the rounds."""
        steps = [1e3 * one.step for one in timings]
        prefill = 1e3 * median(one.prefill for one in timings)
        return cls(load.batch_size, load.prompt_tokens, load.new_tokens, prefill, median(steps), spread(steps))

    @property
    def tokens_s(self) -> float:
        """Tokens decoded in a second by all requests together."""
        return 1e3 * self.batch_size / self.step_ms

    @property
    def prefill_tokens_s(self) -> float:
        """Prompt tokens computed in a second."""
        return 1e3 * self.batch_size * self.prompt_tokens / self.prefill_ms

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON data."""
        return {**asdict(self), "tokens_s": self.tokens_s, "prefill_tokens_s": self.prefill_tokens_s}


def measure_speed(
    engine: Engine, loads: Sequence[Load], repeat: int, observe: Callable[[], None] = lambda: None
) -> list[LoadSpeed]:
    """Time every load `repeat` times in turn, after one round that is thrown away; `observe` is told of each round."""
    for load in loads:
        time_load(engine, load)
        observe()
    timings: list[list[Timing]] = [[] for _ in loads]
    for round_ in range(1, repeat + 1):
        for load, own in zip(loads, timings, strict=True):
            own.append(time_load(engine, load, seed=round_))
            observe()
    return [LoadSpeed.of(load, own) for load, own in zip(loads, timings, strict=True)]


def speed_table(speeds: Sequence[LoadSpeed], title: str) -> Table:
    """A row for each load."""
    result = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("batch", "prompt", "new", "prefill ms", "prompt tok/s", "step ms", "(half between)", "tok/s"):
        result.add_column(heading, justify="right")
    for one in speeds:
        low, high = one.step_spread_ms
        result.add_row(
            *map(str, (one.batch_size, one.prompt_tokens, one.new_tokens)),
            *(f"{one.prefill_ms:.1f}", f"{one.prefill_tokens_s:.0f}", f"{one.step_ms:.2f}"),
            *(f"{low:.2f}-{high:.2f}", f"{one.tokens_s:.1f}"),
        )
    return result

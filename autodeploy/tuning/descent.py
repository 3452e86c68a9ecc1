"""Choosing among what is close by the time of a whole layer: launches overlap, and what is fastest alone may leave its
neighbours no room."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from autodeploy.tuning.choices import Choices, Chosen, Site

MOST_ROWS = 64
"""Of more, each kernel fills the GPU for long."""
ROUNDS = 2
REPEATS = 3
LEAST_GAIN = 0.004
"""Of a layer's time; what differs less may be noise."""

Seconds = Callable[[Chosen], float]


@dataclass(frozen=True)
class Settled:
    """The choices in a layer of `rows` rows, the sites with new ones, and the layer's time before and with them."""

    rows: int
    chosen: Chosen
    changed: tuple[Site, ...]
    seconds_before: float
    seconds: float

    def __str__(self) -> str:
        layer = f"a layer of {self.rows} {'row' if self.rows == 1 else 'rows'} takes"
        before = f"{self.seconds_before * 1e6:.1f}"
        if not self.changed:
            return f"{layer} {before} us with what is fastest alone"
        ways = "; ".join(f"{site} by {self.chosen[site].way}" for site in self.changed)
        return f"{layer} {self.seconds * 1e6:.1f} us, where what is fastest alone takes {before}: {ways}"


def settle(choices: Choices, sites: Sequence[Site], time_of: Callable[[int], Seconds]) -> tuple[Settled, ...]:
    """The choices in a layer with `sites`, for each of `settled_rows`.

    `time_of` gives, for a number of rows, what times the layer. The most rows come first: a step of fewer runs what was
    chosen for them where nothing was measured in between, as with attention.
    """
    settled: list[Settled] = []
    for rows in sorted(settled_rows(choices, sites), reverse=True):
        found = {site: choices.find(site, rows) for site in sites}
        chosen = {site: choice for site, choice in found.items() if choice is not None}
        settled.append(descend(rows, chosen, time_of(rows)))
        choices = choices.updated(settled_choices(settled[-1:]))
    return tuple(settled)


def settled_rows(choices: Choices, sites: Iterable[Site]) -> set[int]:
    """The numbers of rows, up to `MOST_ROWS`, for which every site has a choice and some have one of their own."""
    measured = [{choice.rows for choice in choices.entries[site]} for site in sites]
    least = min((max(rows) for rows in measured), default=0)
    return {rows for rows in set().union(*measured) if rows <= min(least, MOST_ROWS)}


def settled_choices(settled: Iterable[Settled]) -> Choices:
    """What was settled for its own number of rows."""
    choices = Choices()
    for one in settled:
        own = {site: (choice,) for site, choice in one.chosen.items() if choice.rows == one.rows}
        choices = choices.updated(Choices(own))
    return choices


def descend(rows: int, alone: Chosen, seconds: Seconds) -> Settled:
    """Change one site at a time to what is close, as long as a layer becomes faster by more than the noise."""
    now = alone
    for _ in range(ROUNDS):
        before = now
        for site, choice in alone.items():
            if choice.rows == rows:
                now = _settle_site(site, now, seconds)
        if now is before:
            break
    changed = tuple(site for site in alone if now[site].way != alone[site].way)
    was, takes = _times([alone, now], seconds)
    if not changed or not _is_faster(takes, was):
        return Settled(rows, alone, (), was[0], was[0])
    return Settled(rows, {**alone, **{site: now[site] for site in changed}}, changed, was[0], takes[0])


def _settle_site(site: Site, now: Chosen, seconds: Seconds) -> Chosen:
    """With the best choice at `site`: the one it has, unless a close one is faster for sure."""
    others = [{**now, site: now[site].instead(way)} for way in now[site].close]
    if not others:
        return now
    own, *times = _times([now, *others], seconds)
    best, other = min(zip(times, others, strict=True), key=lambda pair: pair[0])
    if not _is_faster(best, own):
        return now
    return {**other, site: replace(other[site], layer_seconds=best[0], layer_seconds_before=own[0])}


def _times(all_chosen: Sequence[Chosen], seconds: Seconds) -> list[list[float]]:
    """The times of each, sorted. They take turns, so that a GPU that slows down slows all."""
    rounds = [[seconds(chosen) for chosen in all_chosen] for _ in range(REPEATS)]
    return [sorted(times) for times in zip(*rounds, strict=True)]


def _is_faster(times: Sequence[float], than: Sequence[float]) -> bool:
    """Whether the slowest is below the fastest of the others, and all differ by enough."""
    return times[-1] < than[0] and times[0] < than[0] * (1.0 - LEAST_GAIN)

"""Where the host's time goes, in steps and before the first."""

from __future__ import annotations

from time import perf_counter

PHASES = ("schedule", "launch", "wait", "settle")


class StepClock:
    """Seconds spent in each phase of all steps so far; in `wait` the host has nothing to do but wait for the device."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._last = 0.0

    def start(self) -> None:
        """A step begins."""
        self._last = perf_counter()

    def mark(self, phase: str) -> None:
        """What was done since the last mark was `phase`."""
        now = perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now


class Phases:
    """Seconds that each phase of a start took, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def mark(self, phase: str) -> None:
        """What was done since the last mark was `phase`."""
        now = perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now

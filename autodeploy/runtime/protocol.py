"""What an engine asks of its core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from autodeploy.runtime.messages import NewRequest, StepOutput
from autodeploy.runtime.stats import EngineStats


class Core(Protocol):
    """What an engine asks of its core, in this process or in another.

    `notes` are what the user should know of it, `phases` the seconds that each part of its loading took.
    """

    notes: Sequence[str]
    phases: Mapping[str, float]

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""

    @property
    def max_len(self) -> int:
        """The most tokens a sequence can have, prompt included."""

    @property
    def has_unfinished(self) -> bool:
        """Whether there is anything to step for."""

    def add(self, request: NewRequest) -> None:
        """Queue a request that fits."""

    def finish(self, request_id: str, index: int | None = None) -> None:
        """End a sequence of a request, or all of them, which nobody wants to hear of any more."""

    def step(self) -> StepOutput:
        """What is new since the last call."""

    def stats(self) -> EngineStats:
        """Gauges and counts."""

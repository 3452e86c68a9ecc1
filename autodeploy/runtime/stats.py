"""The numbers behind `/metrics`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges of this moment (`num_running`, `num_waiting`, pages), and counts since the start.

    Requests count each of the `n` completions of a prompt.
    """

    num_running: int
    num_waiting: int
    num_pages: int
    num_free_pages: int
    num_steps: int
    num_generated_tokens: int
    num_prompt_tokens: int
    num_reused_tokens: int
    num_preemptions: int

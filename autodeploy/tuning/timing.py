"""How long calls take on a GPU: inside a graph, with a cold cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

import torch

ROUNDS = 3
LONG, SUSTAINED = 3e-4, 0.1
"""Seconds of a call that is worth more of them, and for how long it is then made before its time is taken."""


def seconds_a_call(calls: Sequence[Callable[[], object]]) -> float:
    """The median time of a call, of several that should find nothing of theirs in the cache: they run in a graph.

    Give enough calls on different tensors to fill the cache several times over. A GPU that works for long reaches its
    limit of power and slows down, with some kernels more than with others: long calls are timed when it has.
    """
    for call in calls[:2]:
        call()
    graph = captured(calls)
    seconds = seconds_a_replay(graph) / len(calls)
    if seconds < LONG:
        return seconds
    for _ in range(ceil(SUSTAINED / (seconds * len(calls)))):
        graph.replay()
    return seconds_a_replay(graph) / len(calls)


def captured(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """The calls, whose kernels must have run before, as a graph that was replayed once."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    return graph


def seconds_a_replay(graph: torch.cuda.CUDAGraph) -> float:
    """The median time of a replay."""
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return float(sorted(times)[ROUNDS // 2])

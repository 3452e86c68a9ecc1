"""How long calls take on a GPU: inside a graph, with a cold cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

ROUNDS = 3


def seconds_a_call(calls: Sequence[Callable[[], object]]) -> float:
    """The median time of a call, of several that should find nothing of theirs in the cache: they run in a graph.

    Give enough calls on different tensors to fill the cache several times over.
    """
    for call in calls[:2]:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    times = []
    for _ in range(ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3 / len(calls))
    return float(sorted(times)[ROUNDS // 2])

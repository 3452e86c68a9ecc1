"""Decode steps as CUDA graphs: the host replays a whole step with one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_WARM_UPS = 2  # kernels compile at the first call, and libraries choose theirs


def decode_buckets(max_batch_size: int) -> tuple[int, ...]:
    """The batch sizes that get a graph of their own, so that padding never adds more than a few rows in a hundred."""
    sizes = [1, 2, 4, *range(8, 32, 8), *range(32, 256, 16), *range(256, max_batch_size, 32)]
    return (*(size for size in sizes if size < max_batch_size), max_batch_size)


class DecodeGraphs:
    """A graph for each of some batch sizes; smaller batches are padded with the scrap row.

    `step` takes int64 `[3, B]` on the device, as `Tables.decode_inputs` does, and gives logits `[B, vocab_size]`. The
    graphs share their memory, so that the logits of one replay are gone with the next.
    """

    def __init__(
        self, sizes: Sequence[int], step: Callable[[Tensor], Tensor], scrap_row: int, device: torch.device
    ) -> None:
        self._sizes = tuple(sorted(sizes))
        self._padding = torch.tensor([[scrap_row], [0], [0]])
        self._inputs = {size: self._padding.repeat(1, size).to(device) for size in self._sizes}
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        pool = torch.cuda.graph_pool_handle()
        for size in reversed(self._sizes):  # the largest first: the others find room in its memory
            self._graphs[size] = _capture(step, self._inputs[size], pool)

    def run(self, decode: Tensor) -> Tensor:
        """Logits `[B, vocab_size]` of a step, from int64 `[3, B]` on the host; B is at most the largest size."""
        num_requests = decode.shape[1]
        size = next(size for size in self._sizes if size >= num_requests)
        padded = torch.cat((decode, self._padding.expand(3, size - num_requests)), dim=1)
        self._inputs[size].copy_(padded.pin_memory(), non_blocking=True)
        graph, logits = self._graphs[size]
        graph.replay()
        return logits[:num_requests]


def _capture(
    step: Callable[[Tensor], Tensor], inputs: Tensor, pool: Any
) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            step(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        logits = step(inputs)
    return graph, logits

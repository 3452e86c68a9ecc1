"""Steps as CUDA graphs: the host replays a whole step with one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autodeploy.runtime.packing import PackedStep

SMALL = (16, 32, 64, 128, 256, 512, 640, 768, 896, 1024)  # tokens; above that, a GPU takes longer than a host
SMALL_REQUESTS = 256  # of these steps, at most
WHOLE_REQUESTS = 8  # of the largest mixed step: programs for requests that are not there would cost what it gains
MOST_PADDING = 64  # tokens of such a step: more would take as long as the gaps


class Bucket(NamedTuple):
    """The size of a captured step. Where both are equal, each request has one token."""

    num_tokens: int
    num_requests: int


def decode_buckets(max_batch_size: int, planned: Sequence[int] = ()) -> tuple[Bucket, ...]:
    """The batch sizes whose decode steps are captured: padding adds few rows, and none in the largest.

    Up to the largest of them, `planned` sizes are taken as they are.
    """
    usual = [1, 2, 4, *range(8, 32, 8), *range(32, 256, 16), *range(256, max_batch_size, 32)]
    sizes = sorted({*planned, *(one for one in usual if one > max(planned, default=0))})
    return tuple(Bucket(size, size) for size in (*(one for one in sizes if one < max_batch_size), max_batch_size))


def mixed_buckets(max_num_tokens: int) -> tuple[Bucket, ...]:
    """Steps with chunks of prompts that are captured: the small ones, which a GPU computes faster than a host launches.

    The others keep the GPU busy for longer than their launch takes, and run as they are: all but the largest, which
    long prompts are cut into, and whose kernels then follow each other without gaps.
    """
    sizes = sorted(one for one in {*SMALL, min(max_num_tokens, SMALL[-1])} if SMALL[0] <= one <= max_num_tokens)
    small = tuple(Bucket(size, min(size // 2, SMALL_REQUESTS)) for size in sizes)
    return (*small, Bucket(max_num_tokens, WHOLE_REQUESTS)) if max_num_tokens > SMALL[-1] else small


def fitting(buckets: Iterable[Bucket], num_tokens: int, num_requests: int) -> Bucket | None:
    """The first of its kind (decode or mixed) of some buckets, smallest first, that a step fits in without waste."""
    decode = num_tokens == num_requests
    for bucket in buckets:
        if (
            (bucket.num_tokens == bucket.num_requests) is decode
            and num_tokens <= bucket.num_tokens
            and num_requests <= bucket.num_requests
        ):
            few = decode or bucket.num_tokens <= SMALL[-1] or bucket.num_tokens - num_tokens <= MOST_PADDING
            return bucket if few else None
    return None


class StepGraphs:
    """A graph for each of some buckets; smaller steps are padded with tokens of nobody.

    `step` takes a `PackedStep` on the device and gives logits `[R, vocab_size]`. The graphs share their memory, so that
    the logits of one replay are gone with the next.
    """

    def __init__(
        self,
        buckets: Iterable[Bucket],
        step: Callable[[PackedStep], Tensor],
        scrap_row: int,
        device: torch.device,
    ) -> None:
        self._scrap_row = scrap_row
        self._graphs: dict[Bucket, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        # One stream for all: libraries keep a workspace for each that they have seen.
        stream, pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
        for bucket in sorted(buckets, reverse=True):  # the largest first: the others find room in its memory
            flat = PackedStep.empty().padded(*bucket, scrap_row).flat().to(device)
            packed = PackedStep.from_flat(flat, *bucket)
            self._graphs[bucket] = (*_capture(step, packed, stream, pool), flat)
        self._buckets = sorted(self._graphs)

    def find(self, packed: PackedStep) -> Bucket | None:
        """The bucket for a step, if there is one."""
        bucket = fitting(self._buckets, packed.num_tokens, packed.num_requests)
        return bucket if bucket is not None and len(packed.logit_rows) <= bucket.num_requests else None

    def run(self, bucket: Bucket, packed: PackedStep) -> Tensor:
        """Logits `[R, vocab_size]` of a step on the host that fits in `bucket`."""
        graph, logits, inputs = self._graphs[bucket]
        inputs.copy_(packed.padded(*bucket, self._scrap_row).flat().pin_memory(), non_blocking=True)
        graph.replay()
        return logits[: len(packed.logit_rows)]


def _capture(
    step: Callable[[PackedStep], Tensor], packed: PackedStep, stream: torch.cuda.Stream, pool: Any
) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        step(packed)  # kernels compile at the first call, and libraries choose theirs
        stream.synchronize()
        graph.capture_begin(pool=pool)
        logits = step(packed)
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph, logits

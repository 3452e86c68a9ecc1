"""Steps as CUDA graphs: the host replays a whole step with one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from autodeploy.runtime.chunks import SMALL_STEP, chunk_sizes
from autodeploy.runtime.draft import Draft
from autodeploy.runtime.packing import PackedStep, StepSize
from autodeploy.runtime.tables import Tables

SMALL = (16, 32, 64, 128, 256, 512, 640, 768, 896, SMALL_STEP)  # tokens
SMALL_REQUESTS = 512  # of these steps, at most: each has a row of logits
MOST_CAPTURED = 4096  # tokens; a larger step takes a GPU longer than its launch takes a host
FEW_REQUESTS = 8  # of a step of long prompts: programs for requests that are not there would cost what it gains
MOST_PADDING = 64  # tokens of such a step: more would take as long as its launch
MOST_NEW_PAGES = 1024  # of a step with chunks of prompts, which may have found thousands in the cache


class Bucket(NamedTuple):
    """The size of a captured step. Where both are equal, each request has one token."""

    num_tokens: int
    num_requests: int

    @property
    def is_decode(self) -> bool:
        """Whether each request has one token."""
        return self.num_tokens == self.num_requests

    @property
    def size(self) -> StepSize:
        """All of it: a row of logits for each request, and the new pages of whole prompts where there may be some."""
        num_pages = self.num_requests if self.is_decode else MOST_NEW_PAGES
        return StepSize(self.num_tokens, self.num_requests, self.num_requests, num_pages)


class Computed(NamedTuple):
    """What a step leaves on the device: logits `[R, vocab_size]`, the likeliest token of each row, and the rows of the
    tables that hold it, int64 `[R]`.
    """

    logits: Tensor
    token_ids: Tensor
    kept_in: Tensor


def decode_buckets(max_batch_size: int, planned: Sequence[int] = ()) -> tuple[Bucket, ...]:
    """The batch sizes whose decode steps are captured: padding adds few rows, and none in the largest.

    Up to the largest of them, `planned` sizes are taken as they are.
    """
    usual = [1, 2, 4, *range(8, 32, 8), *range(32, 256, 16), *range(256, max_batch_size, 32)]
    sizes = sorted({*planned, *(one for one in usual if one > max(planned, default=0))})
    return tuple(Bucket(size, size) for size in (*(one for one in sizes if one < max_batch_size), max_batch_size))


def mixed_buckets(max_num_tokens: int, max_batch_size: int) -> tuple[Bucket, ...]:
    """Small steps with chunks of prompts, which a GPU computes faster than a host launches."""
    sizes = sorted(one for one in {*SMALL, min(max_num_tokens, SMALL_STEP)} if SMALL[0] <= one <= max_num_tokens)
    return tuple(Bucket(size, min(size // 2, max_batch_size, SMALL_REQUESTS)) for size in sizes)


def large_buckets(max_num_tokens: int) -> tuple[Bucket, ...]:
    """Larger steps, which long prompts are cut into."""
    return tuple(Bucket(size, FEW_REQUESTS) for size in chunk_sizes(max_num_tokens)[1:])


def captured_buckets(max_num_tokens: int, max_batch_size: int, planned: Sequence[int] = ()) -> tuple[Bucket, ...]:
    """All steps that are captured. Of the others, a GPU computes each for longer than a host launches it."""
    large = (one for one in large_buckets(max_num_tokens) if one.num_tokens <= MOST_CAPTURED)
    return (*decode_buckets(max_batch_size, planned), *mixed_buckets(max_num_tokens, max_batch_size), *large)


def fitting(buckets: Iterable[Bucket], num_tokens: int, num_requests: int) -> Bucket | None:
    """The first of its kind (decode or mixed) of some buckets, smallest first, that a step fits in without waste."""
    decode = num_tokens == num_requests
    for bucket in buckets:
        if num_tokens <= bucket.num_tokens and num_requests <= bucket.num_requests and bucket.is_decode is decode:
            few = decode or bucket.num_tokens <= SMALL_STEP or bucket.num_tokens - num_tokens <= MOST_PADDING
            return bucket if few else None
    return None


class Capture(Protocol):
    """Records what a function does, so that it can be done again."""

    def __call__(self, act: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        """What does it again, and the result, which then changes in place."""


class CapturedStep:
    """A step of one size that is ready to run what `words` int64 on the device hold."""

    def __init__(self, size: StepSize, words: Tensor, replay: Callable[[], None], computed: Computed) -> None:
        self.size, self.words = size, words
        self._replay, self._computed = replay, computed
        self._views: dict[int, Computed] = {}

    def run(self, count: int) -> Computed:
        """Run it; what the first rows of logits hold is good until any of the graphs runs again."""
        self._replay()
        if count not in self._views:  # making one takes a while
            self._views[count] = Computed(*(one[:count] for one in self._computed))
        return self._views[count]


class StepGraphs:
    """A graph for each of some buckets; smaller steps are padded with tokens of nobody.

    `step` runs a step on the device. The graphs share their memory, so that what one computes is gone with the next.
    """

    def __init__(
        self,
        buckets: Iterable[Bucket],
        step: Callable[[PackedStep[Tensor]], Computed],
        tables: Tables,
        device: torch.device,
        capture: Capture,
    ) -> None:
        self._steps: dict[Bucket, CapturedStep] = {}
        for bucket in sorted(buckets, reverse=True):  # the largest first: the others find room in its memory
            words = Draft.of_nobody().words(bucket.size, tables).to(device)
            captured = capture(partial(step, PackedStep.over(words, bucket.size)))
            self._steps[bucket] = CapturedStep(bucket.size, words, *captured)
        self._buckets = {
            decode: sorted(one for one in self._steps if one.is_decode is decode) for decode in (True, False)
        }

    def find(self, size: StepSize) -> CapturedStep | None:
        """The graph for a step, if there is one."""
        buckets = self._buckets[size.num_tokens == size.num_requests]
        bucket = fitting(buckets, size.num_tokens, size.num_requests)
        return self._steps[bucket] if bucket is not None and bucket.size.holds(size) else None


class CudaCapture:
    """Captures CUDA graphs, which share their memory."""

    def __init__(self, device: torch.device) -> None:
        # One stream for all: libraries keep a workspace for each that they have seen.
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]

    def __call__(self, act: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        """As `Capture`."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            act()  # kernels compile at the first call, and libraries choose theirs
            self._stream.synchronize()
            graph.capture_begin(pool=self._pool)
            computed = act()
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph.replay, computed

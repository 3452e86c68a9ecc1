"""Steps as CUDA graphs: the host replays a whole step with one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from autodeploy.runtime.draft import Draft
from autodeploy.runtime.packing import PackedStep, StepSize
from autodeploy.runtime.tables import Tables

SMALL = (16, 32, 64, 128, 256, 512, 640, 768, 896, 1024)  # tokens
MOST_CAPTURED = SMALL[-1]  # tokens; above that, a GPU takes longer than a host
SMALL_REQUESTS = 256  # of these steps, at most
FEW_REQUESTS = 8  # of a step of long prompts
MOST_NEW_PAGES = 1024  # of a step with chunks of prompts, which may have found thousands in the cache


class Bucket(NamedTuple):
    """The size of a captured step. Where both are equal, each request has one token."""

    num_tokens: int
    num_requests: int

    @property
    def size(self) -> StepSize:
        """All of it: a row of logits for each request, and the new pages of whole prompts where there may be some."""
        num_pages = self.num_requests if self.num_tokens == self.num_requests else MOST_NEW_PAGES
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


def mixed_buckets(max_num_tokens: int) -> tuple[Bucket, ...]:
    """Steps with chunks of prompts that are captured: the small ones, which a GPU computes faster than a host launches.

    The others keep the GPU busy for longer than their launch takes, and run as they are.
    """
    sizes = sorted(one for one in {*SMALL, min(max_num_tokens, MOST_CAPTURED)} if SMALL[0] <= one <= max_num_tokens)
    return tuple(Bucket(size, min(size // 2, SMALL_REQUESTS)) for size in sizes)


def launched_sizes(max_num_tokens: int) -> tuple[Bucket, ...]:
    """Some steps with chunks of prompts that are not captured, up to the largest."""
    sizes = [MOST_CAPTURED << doublings for doublings in range(1, (max_num_tokens // MOST_CAPTURED).bit_length())]
    return tuple(Bucket(size, FEW_REQUESTS) for size in sorted({*sizes, max_num_tokens}) if size > MOST_CAPTURED)


def fitting(buckets: Iterable[Bucket], num_tokens: int, num_requests: int) -> Bucket | None:
    """The first of its kind (decode or mixed) of some buckets, smallest first, that a step fits in."""
    decode = num_tokens == num_requests
    for bucket in buckets:
        alike = (bucket.num_tokens == bucket.num_requests) is decode
        if alike and num_tokens <= bucket.num_tokens and num_requests <= bucket.num_requests:
            return bucket
    return None


class Capture(Protocol):
    """Records what a function does, so that it can be done again."""

    def __call__(self, act: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        """What does it again, and the result, which then changes in place."""


@dataclass(frozen=True, slots=True)
class CapturedStep:
    """A step that is ready to run, as soon as `words` int64 on the device hold what it computes."""

    size: StepSize
    words: Tensor
    replay: Callable[[], None]
    computed: Computed
    _first: dict[int, Computed] = field(default_factory=dict, repr=False)

    def first(self, count: int) -> Computed:
        """What the first rows of logits hold after `replay`; views are kept, since making one takes a while."""
        if count not in self._first:
            self._first[count] = Computed(*(one[:count] for one in self.computed))
        return self._first[count]


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
        self._captured: dict[Bucket, CapturedStep] = {}
        for bucket in sorted(buckets, reverse=True):  # the largest first: the others find room in its memory
            words = Draft.of_nobody().words(bucket.size, tables).to(device)
            packed = PackedStep.over(words, bucket.size)
            replay, computed = capture(lambda packed=packed: step(packed))  # type: ignore[misc]
            self._captured[bucket] = CapturedStep(bucket.size, words, replay, computed)
        self._buckets = sorted(self._captured)

    def find(self, size: StepSize) -> CapturedStep | None:
        """The graph for a step, if there is one."""
        bucket = fitting(self._buckets, size.num_tokens, size.num_requests)
        return self._captured[bucket] if bucket is not None and bucket.size.holds(size) else None


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

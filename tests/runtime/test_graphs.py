from __future__ import annotations

import pytest

from autodeploy.runtime.chunks import next_chunk
from autodeploy.runtime.graphs import Bucket, captured_buckets, decode_buckets, fitting, large_buckets, mixed_buckets


@pytest.mark.parametrize("largest", [1, 3, 8, 100, 256, 500])
def test_buckets_reach_the_largest_batch_and_pad_little(largest: int) -> None:
    sizes = [bucket.num_requests for bucket in decode_buckets(largest)]
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == largest
    for size in range(32, largest + 1):
        assert next(one for one in sizes if one >= size) <= 1.5 * size


@pytest.mark.parametrize(
    ("num_tokens", "num_requests", "found"),
    [
        (100, 1, Bucket(128, 64)),
        (300, 200, Bucket(512, 256)),
        (513, 1, Bucket(640, 256)),
        (1024, 256, Bucket(1024, 256)),
        (1000, 257, None),
        (1025, 1, None),
        (4000, 1, None),
        (4040, 1, Bucket(4096, 8)),
        (4096, 8, Bucket(4096, 8)),
        (4096, 9, None),
        (4097, 1, None),
        (3, 3, Bucket(4, 4)),
        (17, 17, None),
    ],
)
def test_a_step_takes_the_smallest_bucket_that_pads_little(
    num_tokens: int, num_requests: int, found: Bucket | None
) -> None:
    buckets = sorted((*decode_buckets(16), *mixed_buckets(4096, 256), *large_buckets(4096)))
    assert fitting(buckets, num_tokens, num_requests) == found


@pytest.mark.parametrize(("most", "largest"), [(8, None), (16, (16, 8)), (600, (600, 256)), (1500, (1024, 256))])
def test_small_steps_of_any_size_are_captured(most: int, largest: tuple[int, int] | None) -> None:
    assert max(mixed_buckets(most, 256), default=None) == largest


@pytest.mark.parametrize(("batch", "requests"), [(4, [4, 4]), (100, [8, 100]), (1024, [8, 512])])
def test_a_mixed_step_has_rows_for_no_more_requests_than_can_run(batch: int, requests: list[int]) -> None:
    sizes = mixed_buckets(1024, batch)
    assert [sizes[0].num_requests, sizes[-1].num_requests] == requests


@pytest.mark.parametrize(("most", "sizes"), [(512, []), (1500, []), (3000, [2048]), (8192, [2048, 4096, 8192])])
def test_long_prompts_are_cut_into_sizes_that_can_be_captured(most: int, sizes: list[int]) -> None:
    assert [one.num_tokens for one in large_buckets(most)] == sizes
    captured = captured_buckets(most, 16)
    assert {one.num_tokens for one in captured if one.num_tokens > 1024} == {size for size in sizes if size <= 4096}


@pytest.mark.parametrize(
    ("pending", "chunks"),
    [(7, [7]), (1024, [1024]), (1500, [1024, 476]), (4096, [4096]), (9000, [8192, 808]), (7000, [4096, 2048, 856])],
)
def test_what_a_size_leaves_is_the_next_step(pending: int, chunks: list[int]) -> None:
    found = []
    while pending:
        found.append(next_chunk(pending, 8192))
        pending -= found[-1]
    assert found == chunks


@pytest.mark.parametrize(("pending", "most", "found"), [(600, 512, 512), (5000, 512, 512), (5000, 3000, 2048)])
def test_a_chunk_keeps_to_the_budget(pending: int, most: int, found: int) -> None:
    assert next_chunk(pending, most) == found

from __future__ import annotations

import pytest

from autodeploy.runtime.graphs import decode_buckets


@pytest.mark.parametrize("largest", [1, 3, 8, 100, 256, 500])
def test_buckets_reach_the_largest_batch_and_pad_little(largest: int) -> None:
    sizes = [bucket.num_requests for bucket in decode_buckets(largest)]
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == largest
    for size in range(32, largest + 1):
        assert next(one for one in sizes if one >= size) <= 1.5 * size

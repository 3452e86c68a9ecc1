from __future__ import annotations

import math

import torch

from autodeploy.runtime.logprobs import ROWS_AT_ONCE, token_logprobs


def test_logprobs_and_ranks_are_those_of_a_sorted_softmax() -> None:
    num_rows, vocab_size = ROWS_AT_ONCE + 5, 9
    logits = torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(0))
    token_ids = [row % vocab_size for row in range(num_rows)]
    num_top = [row % 4 for row in range(num_rows)]
    found = token_logprobs(logits, token_ids, num_top)
    assert len(found) == num_rows
    for row, one in enumerate(found):
        weights = [math.exp(logit) for logit in logits[row].tolist()]
        expected = [math.log(weight / sum(weights)) for weight in weights]
        order = sorted(range(vocab_size), key=lambda token: -expected[token])
        assert one.token_id == token_ids[row]
        assert abs(one.logprob - expected[one.token_id]) < 1e-5
        assert one.rank == order.index(one.token_id) + 1
        assert one.top_ids == order[: num_top[row]]
        assert all(abs(a - expected[t]) < 1e-5 for a, t in zip(one.top_logprobs, one.top_ids, strict=True))


def test_more_than_the_vocabulary_is_the_vocabulary() -> None:
    (one,) = token_logprobs(torch.zeros(1, 3), [1], [50])
    assert sorted(one.top_ids) == [0, 1, 2]

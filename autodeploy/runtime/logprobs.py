"""Log-probabilities of chosen tokens and of the likeliest ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autodeploy.runtime.messages import TokenLogprobs

ROWS_AT_ONCE = 256  # bounds the float32 copies of a long prompt's logits


def token_logprobs(logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprobs]:
    """For each row of `logits [N, vocab_size]`, about the token `token_ids[i]` and the `num_top[i]` likeliest."""
    result: list[TokenLogprobs] = []
    for start in range(0, len(token_ids), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        result += _block_logprobs(logits[rows], token_ids[rows], num_top[rows])
    return result


def _block_logprobs(logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprobs]:
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logprobs.gather(1, torch.tensor(token_ids, device=logits.device).unsqueeze(1))
    ranks = (logprobs > chosen).sum(dim=-1) + 1
    top_values, top_ids = logprobs.topk(min(max(num_top), logprobs.shape[-1]), dim=-1)
    columns = (token_ids, chosen.squeeze(1).tolist(), ranks.tolist(), top_ids.tolist(), top_values.tolist(), num_top)
    return [
        TokenLogprobs(token_id, logprob, rank, ids[:count], values[:count])
        for token_id, logprob, rank, ids, values, count in zip(*columns, strict=True)
    ]

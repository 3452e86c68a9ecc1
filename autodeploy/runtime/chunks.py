"""What long prompts are cut into: few sizes of steps, so that each of them can be captured."""

from __future__ import annotations

SMALL_STEP = 1024
"""Tokens that any number of fits a captured step; of larger steps only those of `chunk_sizes` do."""


def chunk_sizes(max_num_tokens: int) -> tuple[int, ...]:
    """The largest step of any number of tokens, and its doublings up to a token budget, ascending."""
    doublings = range((max_num_tokens // SMALL_STEP).bit_length())
    return tuple(SMALL_STEP << one for one in doublings)


def next_chunk(pending: int, max_num_tokens: int) -> int:
    """How many of so many tokens of a prompt the next step takes, where nobody decodes.

    The largest size that they fill: what a size leaves takes a step of its own, and costs hardly more than its tokens.
    """
    if pending <= SMALL_STEP:
        return min(pending, max_num_tokens)
    return max((size for size in chunk_sizes(max_num_tokens) if size <= pending), default=max_num_tokens)

"""The shape of a step, and what something costs: bytes to read and arithmetic to do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepShape:
    """A step of `num_requests` alike: each computes `num_tokens`, after which its cache holds `context` tokens.

    `context` may be the mean of several steps.
    """

    num_requests: int
    num_tokens: int
    context: float

    @property
    def total_tokens(self) -> int:
        """Rows of the step."""
        return self.num_requests * self.num_tokens

    def num_seen(self, window: int | None) -> float:
        """Tokens of one request that its queries see at all."""
        return self.context if window is None else min(self.context, window + self.num_tokens - 1)

    def num_pairs(self, window: int | None) -> float:
        """Queries of one request times the keys each sees."""
        first = self.context - self.num_tokens + 1
        if window is None or self.context <= window:
            return self.num_tokens * (first + self.context) / 2
        return sum(min(first + index, window) for index in range(self.num_tokens))


@dataclass(frozen=True)
class Cost:
    """Bytes read from the device's memory, and arithmetic operations (a multiplication and an addition are two).

    `num_narrow` are those of them whose operands both have 8 bits.
    """

    num_bytes: float = 0.0
    num_flops: float = 0.0
    num_narrow: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.num_bytes + other.num_bytes, self.num_flops + other.num_flops, self.num_narrow + other.num_narrow
        )

    def times(self, count: float) -> Cost:
        """The cost of `count` such steps."""
        return Cost(count * self.num_bytes, count * self.num_flops, count * self.num_narrow)

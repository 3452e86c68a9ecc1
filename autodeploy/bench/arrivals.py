"""Requests as users send them: when they come, how long their prompts are, and how long their answers.

Gaps between arrivals are exponential (a Poisson process). Lengths are lognormal, as those of chats roughly are: most
are short, and a few are many times longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Lengths:
    """Lognormal lengths of a `mean`; `sigma` is the standard deviation of their logarithms.

    A length is `round(exp(mu + sigma z))` for a standard normal z and `mu = ln(mean) - sigma² / 2`, at least 1 and at
    most `most`.
    """

    mean: float
    sigma: float
    most: int

    def draw(self, draw: Random, most: int) -> int:
        """One length, at most `most` and the distribution's own limit."""
        mu = math.log(self.mean) - self.sigma**2 / 2
        return max(1, min(round(draw.lognormvariate(mu, self.sigma)), most, self.most))


# Our choice, in the manner of chats (short questions, longer answers); they were not fitted to any data.
PROMPT_LENGTHS = Lengths(mean=160.0, sigma=1.0, most=2048)
ANSWER_LENGTHS = Lengths(mean=340.0, sigma=0.8, most=2048)


@dataclass(frozen=True)
class Arrival:
    """A request: seconds after the start, tokens of its prompt, and tokens of its answer."""

    seconds: float
    prompt_len: int
    num_new: int


def draw_arrivals(num_requests: int, rate: float, max_len: int, seed: int = 0) -> list[Arrival]:
    """Requests that come at `rate` a second, all at once when it is infinite; none is longer than `max_len` in all."""
    draw = Random(seed)
    now, found = 0.0, []
    for _ in range(num_requests):
        prompt_len = PROMPT_LENGTHS.draw(draw, max_len // 2)
        num_new = ANSWER_LENGTHS.draw(draw, max_len - prompt_len)
        found.append(Arrival(now, prompt_len, num_new))
        now += draw.expovariate(rate) if math.isfinite(rate) else 0.0
    return found

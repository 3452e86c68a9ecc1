"""The workloads of a benchmark: values that know their name, how to run on an engine, and the floor of their figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Protocol

from autodeploy.bench.ceilings import Ceilings
from autodeploy.bench.figure import Figure
from autodeploy.bench.requests import answer_seconds, first_token_seconds, random_prompts
from autodeploy.cost import Cost, Costs, Pace, StepShape
from autodeploy.runtime.llm import LLM

ROUNDS = 3
DECODE_PROMPT = 128
FEW, MANY = 2, 130  # new tokens; the difference of their times is that of decoding alone
WARMING = 128
"""Requests that are served before many are timed: a kernel that nothing asked for yet is compiled meanwhile."""


@dataclass(frozen=True)
class Floors:
    """What the floor of a figure is computed from."""

    model: Costs
    ceilings: Ceilings
    max_batch_size: int
    pace: Pace | None = None
    """What operators reach of the ceilings, for a prediction beside the floor."""

    def seconds(self, *steps: tuple[StepShape, float]) -> tuple[float, str]:
        """The least time of so many steps of each shape, and what bounds it."""
        costs = (self.model.cost(shape).times(times) for shape, times in steps)
        return self.ceilings.floor(sum(costs, Cost()))

    def predicted(self, shape: StepShape) -> float | None:
        """The seconds that a step is expected to take."""
        return None if self.pace is None else self.pace.step(self.model.works(shape), shape.num_requests).seconds


class Workload(Protocol):
    """Something to measure, called `name` on the command line and in reports."""

    @property
    def name(self) -> str:
        """As `parse_workload` reads it."""

    @property
    def reuses_prefixes(self) -> bool:
        """Whether the engine is to look for prompts in its cache."""

    @property
    def batch_size(self) -> int:
        """How many requests must be able to run at once."""

    def measure(self, llm: LLM, floors: Floors) -> list[Figure]:
        """Serve it; RequestError when the model cannot take such requests."""


@dataclass(frozen=True)
class Decode:
    """Tokens a second of requests that decode together.

    Each has 128 random tokens; it is the time of 130 new tokens less that of 2, best of three rounds each.
    """

    batch_size: int
    reuses_prefixes: bool = False

    @property
    def name(self) -> str:
        """decode:BATCH"""
        return f"decode:{self.batch_size}"

    def measure(self, llm: LLM, floors: Floors) -> list[Figure]:
        """Serve it."""
        rounds = range(ROUNDS)
        few, many = (min(self._seconds(llm, new, round_) for round_ in rounds) for new in (FEW, MANY))
        num_tokens = self.batch_size * (MANY - FEW)
        floor, bound = floors.seconds((self.mean_step(), 1))
        tokens_s = num_tokens / (many - few)
        step = floors.predicted(self.mean_step())
        predicted = None if step is None else self.batch_size / step
        return [Figure(self.name, "output", tokens_s, "tok/s", True, self.batch_size / floor, bound, predicted)]

    def mean_step(self) -> StepShape:
        """The mean of the steps that are timed, in which the cache holds each request's tokens but the newest."""
        return StepShape(self.batch_size, 1, DECODE_PROMPT + (FEW + MANY - 1) / 2)

    def _seconds(self, llm: LLM, num_new: int, round_: int) -> float:
        return answer_seconds(llm, random_prompts(llm, self.batch_size, DECODE_PROMPT, round_), num_new)


@dataclass(frozen=True)
class Ttft:
    """Time to the first token of one request of random tokens, best of three."""

    prompt_len: int
    batch_size: int = 1
    reuses_prefixes: bool = False

    @property
    def name(self) -> str:
        """ttft:TOKENS"""
        return f"ttft:{self.prompt_len}"

    def measure(self, llm: LLM, floors: Floors) -> list[Figure]:
        """Serve it, once more than is counted."""
        times = [answer_seconds(llm, random_prompts(llm, 1, self.prompt_len, one), 1) for one in range(ROUNDS + 1)]
        floor, bound = floors.seconds((StepShape(1, self.prompt_len, self.prompt_len), 1))
        return [Figure(self.name, "ttft", 1e3 * min(times[1:]), "ms", floor=1e3 * floor, bound=bound)]


@dataclass(frozen=True)
class Offline:
    """Output tokens a second of many requests that are there from the start."""

    prompt_len: int
    num_new: int
    num_requests: int = 1024
    batch_size: int = 1
    reuses_prefixes: bool = False

    @property
    def name(self) -> str:
        """offline:PROMPTxNEW, with xREQUESTS unless they are 1,024"""
        requests = "" if self.num_requests == Offline.num_requests else f"x{self.num_requests}"
        return f"offline:{self.prompt_len}x{self.num_new}{requests}"

    def measure(self, llm: LLM, floors: Floors) -> list[Figure]:
        """Serve it once, after others like it."""
        prompts = random_prompts(llm, self.num_requests, self.prompt_len)
        answer_seconds(llm, random_prompts(llm, min(self.num_requests, WARMING), self.prompt_len, 1), FEW)
        seconds = answer_seconds(llm, prompts, self.num_new)
        least, bound = floors.seconds(*self.least_steps(floors.max_batch_size))
        num_tokens = self.num_requests * self.num_new
        return [Figure(self.name, "output", num_tokens / seconds, "tok/s", True, num_tokens / least, bound)]

    def least_steps(self, max_batch_size: int) -> list[tuple[StepShape, float]]:
        """The fewest steps that it takes: each weight is read at most once for all requests that run at once."""
        at_once = min(max_batch_size, self.num_requests)
        prompt = StepShape(at_once, self.prompt_len, self.prompt_len)
        decode = StepShape(at_once, 1, self.prompt_len + self.num_new / 2)
        waves = self.num_requests / at_once
        return [(prompt, waves), (decode, waves * (self.num_new - 1))]


@dataclass(frozen=True)
class Prefix:
    """Mean time to the first token of requests that share the start of their prompts, which is in the cache or not."""

    shared_len: int
    own_len: int
    num_requests: int
    reuses_prefixes: bool = True

    @property
    def name(self) -> str:
        """prefix:SHARED+OWNxREQUESTS"""
        return f"prefix:{self.shared_len}+{self.own_len}x{self.num_requests}"

    @property
    def batch_size(self) -> int:
        """They all arrive at once."""
        return self.num_requests

    def measure(self, llm: LLM, floors: Floors) -> list[Figure]:
        """Serve it with prefixes of their own, and with one in common that an earlier request has left in the cache."""
        whole = self.shared_len + self.own_len
        without = min(self._mean(llm, random_prompts(llm, self.num_requests, whole, one)) for one in range(ROUNDS))
        shared = random_prompts(llm, 1, self.shared_len, ROUNDS)[0]
        answer_seconds(llm, [shared], 1)
        warm = min(self._mean(llm, self._suffixed(llm, shared, ROUNDS + 1 + one)) for one in range(ROUNDS))
        return [
            Figure(self.name, "ttft mean, warm", 1e3 * warm, "ms"),
            Figure(self.name, "ttft mean, cold", 1e3 * without, "ms"),
            Figure(self.name, "gain", without / warm, "times", True),
        ]

    def _suffixed(self, llm: LLM, shared: list[int], seed: int) -> list[list[int]]:
        return [shared + own for own in random_prompts(llm, self.num_requests, self.own_len, seed)]

    def _mean(self, llm: LLM, prompts: Sequence[list[int]]) -> float:
        return fmean(first_token_seconds(llm, prompts))

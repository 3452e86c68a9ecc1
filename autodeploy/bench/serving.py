"""Serving requests as they come: how long users wait, and how much is served."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from autodeploy.bench.arrivals import Arrival, draw_arrivals
from autodeploy.bench.figure import Figure
from autodeploy.bench.requests import greedy, random_prompts
from autodeploy.bench.workloads import Floors
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.llm import LLM


@dataclass(frozen=True)
class Serve:
    """Requests with the lengths of conversations, `rate` of them a second.

    With `at_once`, a request waits until fewer than that many are open: with an infinite rate that is a closed loop.
    """

    rate: float
    at_once: int | None = None
    num_requests: int = 512
    batch_size: int = 1
    reuses_prefixes: bool = False

    @property
    def name(self) -> str:
        """serve:RATE[@AT_ONCE], with xREQUESTS unless they are 512"""
        limit = "" if self.at_once is None else f"@{self.at_once}"
        requests = "" if self.num_requests == Serve.num_requests else f"x{self.num_requests}"
        return f"serve:{self.rate:g}{limit}{requests}"

    def measure(self, llm: LLM, floors: Floors) -> list[Figure]:
        """Serve it once."""
        arrivals = draw_arrivals(self.num_requests, self.rate, llm.engine.max_len)
        prompts = [random_prompts(llm, 1, one.prompt_len, index)[0] for index, one in enumerate(arrivals)]
        return self.figures(Client(llm.engine, self.at_once).serve(arrivals, prompts))

    def figures(self, served: Sequence[Served]) -> list[Figure]:
        """Throughput, then times to the first token, between tokens and to the last: ttft, itl and e2e."""
        seconds = max(one.times[-1] for one in served) - min(one.started for one in served)
        num_tokens = sum(len(one.times) for one in served)
        figures = [
            Figure(self.name, "requests", len(served) / seconds, "1/s", True),
            Figure(self.name, "output", num_tokens / seconds, "tok/s", True),
        ]
        waits = {
            "ttft": [one.times[0] - one.started for one in served],
            "itl": [gap for one in served for gap in one.gaps] or [0.0],
            "e2e": [one.times[-1] - one.started for one in served],
        }
        for metric, times in waits.items():
            for kind, value in (("mean", fmean(times)), ("p50", percentile(times, 50)), ("p99", percentile(times, 99))):
                figures.append(Figure(self.name, f"{metric} {kind}", 1e3 * value, "ms"))
        return figures


@dataclass
class Served:
    """When a request began to wait, and when each of its tokens came."""

    started: float
    times: list[float] = field(default_factory=list)

    @property
    def gaps(self) -> list[float]:
        """The times between its tokens; those that came together are apart by nothing."""
        return [after - before for before, after in pairwise(self.times)]


class Client:
    """Sends requests to an engine when they arrive, and notes when their tokens come back."""

    def __init__(self, engine: Engine, at_once: int | None) -> None:
        self._engine = engine
        self._at_once = math.inf if at_once is None else at_once
        self._open: dict[str, Served] = {}

    def serve(self, arrivals: Sequence[Arrival], prompts: Sequence[list[int]]) -> list[Served]:
        """Serve all requests, which are in order of arrival; what became of each.

        A request waits from when it arrives, or, where only so many are let in at once, from when it is let in.
        """
        served: list[Served] = []
        begun = time.perf_counter()
        while len(served) < len(arrivals) or self._open:
            now = time.perf_counter() - begun
            while len(served) < len(arrivals) and arrivals[len(served)].seconds <= now and self._has_room:
                number = len(served)
                served.append(Served(arrivals[number].seconds if self._at_once == math.inf else now))
                self._send(f"serve-{number}", arrivals[number], prompts[number], served[-1])
            if self._open:
                self._step(begun)
            else:
                time.sleep(max(0.0, arrivals[len(served)].seconds - now))
        return served

    @property
    def _has_room(self) -> bool:
        return len(self._open) < self._at_once

    def _send(self, name: str, arrival: Arrival, prompt: list[int], served: Served) -> None:
        self._engine.add_request(name, prompt, greedy(arrival.num_new))
        self._open[name] = served

    def _step(self, begun: float) -> None:
        outputs = self._engine.step()
        now = time.perf_counter() - begun
        for output in outputs:
            self._open[output.request_id].times += [now] * len(output.outputs[0].token_ids)
            if output.finished:
                del self._open[output.request_id]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many percent lie, interpolated between the two nearest."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))

"""What the host does for a step of an engine: `python benchmarks/host_cpu.py [--out FILE.json]`.

The model and the graphs do nothing, so that what is left is the time that a GPU waits before the first step of a
request, and what hides behind it in later ones. Microseconds, the median of many steps: of decode steps by batch size,
and of prompts that come after a pause in which the caches of the processor are put to other use.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from machine import context
from torch import Tensor

from autodeploy.runtime.graphs import Computed, captured_buckets
from autodeploy.runtime.model import StepInputs
from autodeploy.runtime.request import Request
from autodeploy.runtime.runner import Runner
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.scheduler import Scheduler
from autodeploy.runtime.settings import RuntimeSettings

PAGES, MAX_LEN = 20000, 131072
SETTINGS = RuntimeSettings(max_batch_size=1024, max_num_tokens=8192, num_pages=PAGES, prefix_reuse=False)
PARAMS = SamplingParams(max_tokens=1000, temperature=0, ignore_eos=True)
ELSEWHERE = np.zeros(1 << 23)


class Idle:
    """A model that says nothing."""

    vocab_size, max_model_len, device, is_capturable = 8, MAX_LEN, torch.device("cpu"), True

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        return []

    def page_bytes(self, page_size: int) -> int:
        return 1

    def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
        return torch.zeros(len(inputs.logit_rows), self.vocab_size)


def capture(act: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
    return lambda: None, act()


def serve(runner: Runner, num_requests: int, prompt_len: int, steps: int) -> Iterator[tuple[str, dict[str, float]]]:
    """The kind of each step, and the microseconds of its phases."""
    scheduler = Scheduler(SETTINGS, PAGES, MAX_LEN)
    for number in range(num_requests):
        scheduler.add(Request(str(number), list(range(prompt_len)), PARAMS, max_len=MAX_LEN, seed=0))
    for _ in range(steps):
        marks = [time.perf_counter()]
        batch = scheduler.schedule()
        marks.append(time.perf_counter())
        launched = runner.launch(batch)
        marks.append(time.perf_counter())
        scheduler.expect(batch)
        scheduler.settle(batch, launched.collect().token_ids)
        marks.append(time.perf_counter())
        kind = "decode" if batch.num_tokens == num_requests else "prompt"
        phases = zip(("schedule", "launch", "settle"), np.diff(marks).tolist(), strict=True)
        yield f"{kind}:{num_requests if kind == 'decode' else prompt_len}", {name: 1e6 * one for name, one in phases}


def measure() -> list[dict[str, object]]:
    buckets = captured_buckets(SETTINGS.max_num_tokens, SETTINGS.max_batch_size)
    runner = Runner(Idle(), PAGES, SETTINGS.page_size, SETTINGS.max_batch_size, MAX_LEN, buckets, capture)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    loads = [(size, 16, 60) for size in (1, 8, 64, 256, 1024)] + [(1, length, 1) for length in (128, 4096)] * 20
    for size, length, steps in loads:
        np.add(ELSEWHERE, 1, out=ELSEWHERE)
        for kind, phases in serve(runner, size, length, steps):
            for phase, microseconds in phases.items():
                found[kind][phase].append(microseconds)
    wanted = [f"decode:{size}" for size in (1, 8, 64, 256, 1024)] + ["prompt:128", "prompt:4096"]
    return [{"step": kind, **{phase: round(median(some)) for phase, some in found[kind].items()}} for kind in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as a worker does
    gc.collect()
    gc.freeze()
    rows = measure()
    for row in rows:
        print(row, flush=True)
    if options.out:
        options.out.write_text(json.dumps({**context(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Where the time of a step goes: kernel by kernel on the device, phase by phase on the host."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch.profiler import ProfilerActivity

from autodeploy.bench.ceilings import wait_for
from autodeploy.bench.requests import greedy, random_prompts
from autodeploy.bench.timeline import (
    BETWEEN,
    OUTSIDE,
    OVERLAP,
    WITHIN,
    ProfileRow,
    device_rows,
    device_spans,
    host_rows,
)
from autodeploy.bench.workloads import DECODE_PROMPT, Decode, Ttft
from autodeploy.runtime.core import EngineCore
from autodeploy.runtime.llm import LLM

STEPS = 20
WARM_UP = 3
SHOWN = 16
NO_KERNELS = (BETWEEN, WITHIN, OVERLAP, OUTSIDE)


@dataclass(frozen=True)
class StepProfile:
    """One step of a workload (of a `ttft`, the whole prompt), as the mean of `num_steps`.

    `step_ms` and the phases of the host, `host_ms`, were measured without the profiler; `rows` with it, and they add up
    to `profiled_ms`.
    """

    run: str
    num_steps: int
    step_ms: float
    host_ms: dict[str, float]
    profiled_ms: float
    rows: tuple[ProfileRow, ...]

    @property
    def device_ms(self) -> float:
        """How long the device works."""
        return self.profiled_ms - sum(row.ms for row in self.rows if row.name in (BETWEEN, WITHIN, OUTSIDE))

    @property
    def exposed_ms(self) -> float:
        """Time of the host that no work of the device hides."""
        return sum(row.ms for row in self.rows if row.name in (BETWEEN, OUTSIDE))

    @property
    def busy_ms(self) -> float:
        """How long the host works; the rest of the step it waits."""
        return sum(ms for phase, ms in self.host_ms.items() if phase != "wait")

    def as_dict(self) -> dict[str, object]:
        """The profile as JSON data."""
        figures = {"device_ms": self.device_ms, "exposed_ms": self.exposed_ms, "busy_ms": self.busy_ms}
        return {**vars(self), "rows": [vars(row) for row in self.rows], **figures}

    def __rich__(self) -> Group:
        """The longest rows, and a line about the host."""
        table = Table(title=f"A step of {self.run}", title_justify="left", title_style="bold", box=None, pad_edge=False)
        for heading in ("ms", "share", "calls"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("kernel or operator", no_wrap=True, overflow="ellipsis")
        for row in self._shown():
            share = 100 * row.ms / self.profiled_ms
            table.add_row(f"{row.ms:.4f}", f"{share:.1f} %", f"{row.calls:g}", Text(row.name))
        table.add_row(f"{self.profiled_ms:.4f}", "100 %", "", "in all, under the profiler")
        return Group(table, Text(self._host_sentence()))

    def _shown(self) -> list[ProfileRow]:
        kernels = [row for row in self.rows if row.name not in NO_KERNELS]
        tail, rest = kernels[SHOWN:], [row for row in self.rows if row.name in NO_KERNELS]
        others = ProfileRow(f"({len(tail)} others)", sum(row.ms for row in tail), sum(row.calls for row in tail))
        return [*kernels[:SHOWN], *([others] if tail else []), *rest]

    def _host_sentence(self) -> str:
        phases = ", ".join(f"{phase} {ms:.3f}" for phase, ms in self.host_ms.items())
        return (
            f"Without the profiler {self.step_ms:.3f} ms; the host: {phases}. Busy for {self.busy_ms:.3f} ms, of which"
            f" {self.exposed_ms:.3f} ({100 * self.exposed_ms / self.profiled_ms:.1f} % of the step) are not hidden."
        )


def profile_decode(llm: LLM, workload: Decode) -> StepProfile:
    """Profile decode steps of an engine whose core is in this process."""
    engine = llm.engine
    names = [f"profile-{number}" for number in range(workload.batch_size)]
    prompts = random_prompts(llm, workload.batch_size, DECODE_PROMPT)
    for name, prompt in zip(names, prompts, strict=True):
        engine.add_request(name, prompt, greedy(WARM_UP + 3 * STEPS))
    waiting = set(names)
    while waiting:
        waiting -= {output.request_id for output in engine.step()}
    _steps(llm, WARM_UP)
    found = _profiled(llm, workload.name, STEPS, lambda: _steps(llm, STEPS))
    for name in names:
        engine.abort(name)
    while engine.has_unfinished:
        engine.step()
    return found


def profile_prefill(llm: LLM, workload: Ttft) -> StepProfile:
    """Profile one request for one token, on an engine whose core is in this process."""
    seeds = iter(range(3))

    def answer() -> None:
        llm.generate(list(random_prompts(llm, 1, workload.prompt_len, next(seeds))), greedy(1))

    answer()
    return _profiled(llm, workload.name, 1, answer)


def _steps(llm: LLM, num_steps: int) -> None:
    for _ in range(num_steps):
        llm.engine.step()


def _profiled(llm: LLM, name: str, num_steps: int, act: Callable[[], None]) -> StepProfile:
    """Do something that takes `num_steps` twice: once with the clock, once under the profiler."""
    core = llm.engine.core
    assert isinstance(core, EngineCore), "the profiler sees this process alone"
    before = dict(core.clock.seconds)
    step_ms = _wall_ms(core.device, act) / num_steps
    host_ms = {one: 1e3 * (after - before[one]) / num_steps for one, after in core.clock.seconds.items()}
    host_ms["text"] = step_ms - sum(host_ms.values())
    on_gpu = core.device.type == "cuda"
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        whole_ms = _wall_ms(core.device, act) / num_steps
    rows = device_rows(device_spans(seen), num_steps) if on_gpu else host_rows(seen, whole_ms, num_steps)
    return StepProfile(name, num_steps, step_ms, host_ms, sum(row.ms for row in rows), tuple(rows))


def _wall_ms(device: torch.device, act: Callable[[], None]) -> float:
    wait_for(device)
    started = time.perf_counter()
    act()
    wait_for(device)
    return 1e3 * (time.perf_counter() - started)

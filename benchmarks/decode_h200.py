"""Decode steps of several models on one GPU: `python benchmarks/decode_h200.py FOLDER [MODEL[:SCHEME] ...]`.

Traces each model of `benchmarks/configs`, tunes its kernels, fills it with random weights in memory, times the steps of
the engine's core, and writes a report like those of `autodeploy bench --run decode:1` to `h200_decode_*.json` in
FOLDER, with the tokens that the cache was planned for and got. `predicted_h200.py` reads them.
"""

from __future__ import annotations

import gc
import sys
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from typing_extensions import override

import autodeploy as ad
from autodeploy.bench.ceilings import Ceilings, measure_ceilings
from autodeploy.bench.figure import Figure
from autodeploy.bench.machine import context
from autodeploy.bench.report import Report
from autodeploy.bench.workloads import DECODE_PROMPT, Decode, Floors
from autodeploy.cost import Pace
from autodeploy.hardware import load_gpu
from autodeploy.optimizer import optimize
from autodeploy.planning import estimate_model
from autodeploy.runtime.core import EngineCore
from autodeploy.runtime.messages import NewRequest
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.weights.source import MemorySource, Ranges, select

CONFIGS = Path(__file__).parent / "configs"
DEFAULT = [f"{name}:{scheme}" for name in ("llama-3.2-1b", "qwen3-8b", "llama-3.1-8b") for scheme in ("none", "fp8")]
SIZES = (1, 8, 64, 256)
BEFORE, TIMED = 32, 64  # steps; the mean of the timed ones sees what `Decode.mean_step` does
SETTINGS = RuntimeSettings(max_batch_size=256, max_num_tokens=2048, prefix_reuse=False, graph_batch_sizes=SIZES)


class Repeated(MemorySource):
    """Every weight a view of the same random numbers: billions of them take minutes to draw."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        most = max(one.numel() for one in tensors.values())
        self.numbers = (0.02 * torch.randn(most, device="cuda")).to("cpu", torch.bfloat16)

    @override
    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        shape = self.shape(key)
        return select(self.numbers[: torch.Size(shape).numel()].view(shape), ranges)


def decode(core: EngineCore, workload: Decode, floors: Floors) -> Figure:
    """The tokens a second of steps in which every request gets one."""
    draw, names = Random(0), {f"{workload.name}-{number}" for number in range(workload.batch_size)}
    params = SamplingParams(max_tokens=BEFORE + 3 * TIMED, temperature=0, ignore_eos=True, detokenize=False)
    for name in names:
        core.add(NewRequest(name, array("i", draw.choices(range(core.vocab_size), k=DECODE_PROMPT)), params, 0))
    waiting = set(names)
    while waiting:
        waiting -= {one.request_id for one in core.step().tokens}
    seconds = [_seconds(core, steps) for steps in (BEFORE, TIMED)][-1] / TIMED
    for name in names:
        core.finish(name)
    while core.has_unfinished:
        core.step()
    floor, bound = floors.seconds((workload.mean_step(), 1))
    predicted = floors.predicted(workload.mean_step())
    rates = [None if one is None else workload.batch_size / one for one in (seconds, floor, predicted)]
    return Figure(workload.name, "output", rates[0] or 0.0, "tok/s", True, rates[1], bound, rates[2])


def _seconds(core: EngineCore, steps: int) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        core.step()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(name: str, scheme: str, ceilings: Ceilings, folder: Path) -> None:
    """Measure one model, and write its report."""
    traced = ad.trace(str(CONFIGS / name), dtype="bf16")
    tied = getattr(traced.model, "all_tied_weights_keys", ())
    source = Repeated({key: one for key, one in traced.model.state_dict().items() if key not in tied})
    rows = {"passes.tune_kernels.max_rows": SETTINGS.max_num_tokens}
    found = optimize(traced, gpu="h200", quantize=None if scheme == "none" else scheme, set=rows, source=source)
    gpu = load_gpu("h200")
    estimate = estimate_model(traced.config, gpu, torch.bfloat16, found.recipe)
    core = EngineCore(found.program, SETTINGS)
    tokens = {
        "planned": estimate.fit(SETTINGS.max_batch_size, SETTINGS.max_num_tokens).cache_tokens,
        "allocated": core.stats().num_pages * SETTINGS.page_size,
    }
    floors = Floors(estimate.model, ceilings, SETTINGS.max_batch_size, Pace.of(gpu))
    figures = [decode(core, Decode(size), floors) for size in SIZES]
    command = f"python benchmarks/decode_h200.py FOLDER {name}:{scheme} --quantize {scheme}"
    told = {**context(command), "cache_tokens": tokens}
    Report(f"benchmarks/configs/{name}", "bfloat16", told, ceilings, tuple(figures)).save(
        folder / f"h200_decode_{name}_{scheme}.json"
    )
    found_ms = {one.run: round(1e3 * size / one.value, 3) for size, one in zip(SIZES, figures, strict=True)}
    print(name, scheme, found_ms, tokens, flush=True)


def main(folder: Path, names: list[str]) -> None:
    """Measure every model that is asked for."""
    ceilings = measure_ceilings(torch.device("cuda"), torch.bfloat16)
    for name, _, scheme in (one.partition(":") for one in names):
        measure(name, scheme or "none", ceilings, folder)
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or DEFAULT)

"""Measure FlashInfer's attention beside ours at the shapes of Llama-3.1-8B, in one run.

usage: python benchmarks/flashinfer_gpu.py [--only decode,prefill] [--json FILE]

FlashInfer (`pip install flashinfer-python`) compiles its kernels first, families side by side. Figures are medians
of replayed CUDA graphs over rotating caches, with our cache write before either attention. `plan` is what FlashInfer
does on the host for a step, before its kernels can run: no graph can hold it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import flashinfer  # type: ignore[import-not-found]
import machine
import torch
from cuda_cases import BF16, DECODES, HEADS, KV_HEADS, PREFILLS, WIDTH, Cache
from cuda_timing import Case, Variant, buffers, matmul_ceiling, measure, read_ceiling
from torch import Tensor

from autodeploy.kernels.triton.attention_config import decode_config, hopper_kernels, prefill_config

FAMILIES = ("cuda_cores", "tensor_cores", "fa2", "fa3")
SHAPES = (HEADS, KV_HEADS, WIDTH)
PAGE = 16
PLANS = 21


def workspace() -> Tensor:
    return torch.zeros(256 << 20, dtype=torch.uint8, device="cuda")


def pages_of(cache: Cache) -> tuple[Tensor, Tensor, Tensor]:
    """A batch's pages as FlashInfer wants them: where each request's begin, all of them, how full the last is."""
    lengths = cache.context_len.cpu()
    counts = (lengths + PAGE - 1) // PAGE
    starts = torch.cat([torch.zeros(1, dtype=torch.int32), counts.cumsum(0).int()])
    table = cache.table.cpu()
    pages = torch.cat([row[:count] for row, count in zip(table, counts, strict=True)])
    return starts, pages, ((lengths - 1) % PAGE + 1).int()


class Planned:
    """FlashInfer's attention of a family, planned for the tables of a cache."""

    def __init__(self, cache: Cache, family: str) -> None:
        self.decodes = family in FAMILIES[:2]
        starts, pages, last = pages_of(cache)
        self.tables = (starts, pages.cuda(), last)
        self.queries = cache.query_start.cpu()
        if self.decodes:
            cores = family == "tensor_cores"
            self.wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace(), "HND", use_tensor_cores=cores)
        else:
            self.wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace(), "HND", backend=family)

    def plan(self) -> None:
        types = {"q_data_type": BF16, "kv_data_type": BF16}
        if self.decodes:
            self.wrapper.plan(*self.tables, *SHAPES, PAGE, **types)
        else:
            self.wrapper.plan(self.queries, *self.tables, *SHAPES, PAGE, causal=True, **types)

    def run(self, cache: Cache) -> Tensor:
        cache.write()
        self.wrapper.run(cache.q, (cache.key_pages, cache.value_pages), out=cache.out)
        return cache.out


def planning_us(planned: Planned) -> float:
    """What a plan takes on the host."""
    times = []
    for _ in range(PLANS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        planned.plan()
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)


def _ours(cache: Cache, decodes: bool) -> Callable[[], Tensor]:
    if decodes:
        return partial(cache.decode, decode_config(WIDTH, 2, cache.k[..., 0].numel(), cache.q.device))
    if hopper_kernels(cache.q.device) is not None:
        return cache.hopper_prefill
    return partial(cache.prefill, prefill_config(WIDTH, 2, cache.q[..., 0].numel(), cache.q.device))


def variants(
    caches: list[Cache], families: tuple[str, ...], compiling: dict[str, subprocess.Popen[bytes]]
) -> Iterator[tuple[Variant, float]]:
    """Ours and FlashInfer's, each with the time of its plan."""
    yield Variant("ours", [_ours(cache, families[0] == FAMILIES[0]) for cache in caches]), 0.0
    for family in families:
        if compiling[family].wait():
            print(f"{family}: its kernels could not be compiled", file=sys.stderr)
            continue
        planned = Planned(caches[0], family)
        took = planning_us(planned)
        yield Variant(f"flashinfer {family}", [partial(planned.run, cache) for cache in caches]), took


def replicas(cache: Cache, count: int) -> list[Cache]:
    """A cache, and others that differ in what their pages hold alone: one plan serves all."""
    found = [cache]
    for _ in range(count - 1):
        other = copy.copy(cache)
        other.key_pages, other.value_pages = cache.key_pages.flip(0), cache.value_pages.flip(0)
        found.append(other)
    return found


def cases(kinds: list[str]) -> Iterator[tuple[str, list[Cache], tuple[str, ...], int, int]]:
    """The name of a case, its caches, the families that serve it, the bytes it reads and the operations it does."""
    if "decode" in kinds:
        for name, contexts in {**DECODES, "8 @ 1024": [1024] * 8, "8 @ 192": [192] * 8}.items():
            size = sum(contexts) * KV_HEADS * WIDTH * 4
            caches = replicas(Cache(contexts, 1, PAGE), buffers(size))
            yield f"decode {name}", caches, FAMILIES[:2], size, 0
    if "prefill" in kinds:
        for name in ("1x4096", "4x1024"):
            requests, new, context = PREFILLS[name]
            operations = requests * new * (2 * context - new + 1) // 2 * HEADS * WIDTH * 4
            yield f"prefill {name} @ {context}", [Cache([context] * requests, new, PAGE)], FAMILIES[2:], 0, operations


def start_compiling(kinds: list[str]) -> dict[str, subprocess.Popen[bytes]]:
    """One process a family, in which FlashInfer compiles what a first run needs."""
    needed = FAMILIES[:2] * ("decode" in kinds) + FAMILIES[2:] * ("prefill" in kinds)
    return {one: subprocess.Popen([sys.executable, __file__, "--compile", one]) for one in needed}


def compile_family(family: str) -> None:
    cache = Cache([192], 1 if family in FAMILIES[:2] else 192, PAGE)
    planned = Planned(cache, family)
    planned.plan()
    planned.run(cache)
    torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="decode,prefill")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compile", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compile:
        compile_family(options.compile)
        return
    kinds = options.only.split(",")
    compiling = start_compiling(kinds)
    torch.manual_seed(0)
    ceilings = {"TB/s": read_ceiling(), "TFLOP/s": matmul_ceiling()}
    record: dict[str, Any] = {
        **machine.context(), "flashinfer": flashinfer.__version__, "device": torch.cuda.get_device_name(),
        "ceilings": ceilings, "results": [],
    }  # fmt: skip
    for name, caches, families, size, flops in cases(kinds):
        expected = caches[0].expected()
        for variant, plan in variants(caches, families, compiling):
            case = Case("attention", name, [variant], size, flops, tolerance=2e-2)
            try:
                found = measure(case, variant, expected)
            except (AssertionError, RuntimeError) as problem:
                print(f"{name} {variant.name}: {problem}", file=sys.stderr)
                continue
            record["results"].append({**asdict(found), "plan_us": plan})
            unit = "TFLOP/s" if flops else "TB/s"
            share = found.rate / ceilings[unit]
            print(f"{name:24} {variant.name:24} {found.microseconds:9.2f} us {found.rate:8.2f} {unit} {share:5.2f}"
                  f"  plan {plan:7.1f} us  error {found.error:.1e}", flush=True)  # fmt: skip
            if options.json:
                options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()

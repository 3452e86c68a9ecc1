"""Check and time the CUDA kernels at the shapes of Llama-3.1-8B.

usage: python benchmarks/kernels_gpu.py [--only linear,…] [--rows 1,8,64] [--pages 16,64] [--sweep] [--json FILE]

Each figure is the median of replayed CUDA graphs over rotating buffers; the ceilings are measured in the same run.
`--sweep` tries many configurations; their kernels are first compiled in several processes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from cuda_cases import call_once, decode_cases, prefill_cases
from cuda_linear_cases import linear_cases
from cuda_quantized_cases import quantized_cases
from cuda_small_cases import row_cases, sampling_cases
from cuda_timing import Case, Measurement, matmul_ceiling, measure, read_ceiling
from triton.runtime.errors import OutOfResources

WORKERS = min(12, os.cpu_count() or 1)


def cases(options: argparse.Namespace) -> Iterator[Case]:
    rows, pages = (tuple(map(int, text.split(","))) for text in (options.rows, options.pages))
    kinds = options.only.split(",")
    if "linear" in kinds:
        yield from linear_cases(rows, options.sweep)
    if "quantized" in kinds:
        yield from quantized_cases(rows)
    if "decode" in kinds:
        yield from decode_cases(pages, options.sweep)
    if "prefill" in kinds:
        yield from prefill_cases(pages, options.sweep)
    if "rows" in kinds:
        yield from row_cases(rows)
    if "sampling" in kinds:
        yield from sampling_cases(rows)


def compile_share(options: argparse.Namespace) -> None:
    """Compile this worker's share of the variants: all shapes of a configuration go to one worker."""
    for case in cases(options):
        names = [one.name for one in case.variants if zlib.crc32(one.name.encode()) % WORKERS == options.worker]
        for name in names:
            try:
                call_once(case, [name])
            except OutOfResources:
                continue


def compile_all() -> None:
    command = [sys.executable, __file__, *sys.argv[1:], "--worker"]
    workers = [subprocess.Popen([*command, str(worker)]) for worker in range(WORKERS)]
    for worker in workers:
        worker.wait()


def run(case: Case) -> Iterator[Measurement]:
    expected = case.expected() if case.expected else None
    for variant in case.variants:
        try:
            yield measure(case, variant, expected)
        except OutOfResources as problem:
            print(f"{case.kernel} {case.shape} {variant.name}: {problem}", file=sys.stderr)
        except AssertionError as problem:
            print(f"WRONG: {problem}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="linear,quantized,decode,prefill,rows,sampling")
    parser.add_argument("--rows", default="1,8,64")
    parser.add_argument("--pages", default="16")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--best", type=int, default=100, help="print so many of the variants of a case")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.worker is not None:
        compile_share(options)
        return
    if options.sweep:
        compile_all()
    ceilings = {"TB/s": read_ceiling(), "TFLOP/s": matmul_ceiling()}
    print(", ".join(f"ceiling {value:.2f} {unit}" for unit, value in ceilings.items()))
    results = []
    for case in cases(options):
        unit = "TFLOP/s" if case.flops else "TB/s"
        found = sorted(run(case), key=lambda one: one.microseconds)
        results += found
        print(f"{case.kernel} {case.shape}")
        ours = [one for one in found if "=" in one.variant][: options.best]
        for one in found:
            if one in ours or "=" not in one.variant:
                share = one.rate / ceilings[unit]
                print(f"  {one.microseconds:9.2f} µs {one.rate:8.2f} {unit} {share:5.2f}  {one.variant}", flush=True)
        if options.json:
            record = {"device": torch.cuda.get_device_name(), "ceilings": ceilings, "results": [*map(asdict, results)]}
            options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    with torch.inference_mode():
        main()

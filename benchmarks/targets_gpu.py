"""Decoding, first tokens and offline throughput of Llama-3.1-8B's shapes with random weights on one GPU.

usage: python benchmarks/targets_gpu.py [--layers 32] [--only decode,ttft,offline,profile] [--json FILE]

decode N: N requests of 128 random tokens, the time of 130 new tokens less that of 2, over 128 N tokens. ttft L: one
request of L tokens, one new token. offline AxB: 1,024 requests of A tokens, B new tokens each. Best of three.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from machine import context
from transformers import LlamaConfig

import autodeploy as ad
from autodeploy.discovery import kernel_table
from autodeploy.optimizer import DTYPES, Optimized
from autodeploy.program import Program
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.llm import LLM
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings

READ_TB_S = 4.39  # measured on this GPU: what it reads from its memory
BYTES_PER_TOKEN = 131_072  # keys and values of one token in bf16


def llama_8b(num_layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=num_layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=False,
    )


def random_program(optimized: Optimized, dtype: torch.dtype) -> Program:
    """The program with weights drawn on the device: reading them from a disk would take minutes."""
    device = torch.device("cuda")
    weights: dict[str, torch.Tensor] = {}
    for name, expression in optimized.weights.items():
        if expression.dtype != dtype:
            weights[name] = expression.read(_NOTHING).to(device)
        else:
            weights[name] = torch.empty(expression.shape, dtype=dtype, device=device).normal_(0.0, 0.02)
    assert optimized.spec is not None
    return Program(
        optimized.graph_module, weights, kernel_table(device), device, optimized.spec, tuning=optimized.tuning
    )


class Bench:
    """One engine, and the workloads on it."""

    def __init__(self, program: Program) -> None:
        settings = RuntimeSettings(prefix_reuse=False, max_batch_size=256, max_num_tokens=8192, max_model_len=8192)
        self.llm = LLM(Engine.of(program, None, settings))
        self.vocab_size = program.vocab_size
        self.rng = Random(0)

    def run(self, num_requests: int, prompt_len: int, num_new: int) -> float:
        """Seconds to answer so many requests."""
        prompts: list[Any] = [self.rng.choices(range(self.vocab_size), k=prompt_len) for _ in range(num_requests)]
        params = SamplingParams(temperature=0, max_tokens=num_new, ignore_eos=True, detokenize=False)
        torch.cuda.synchronize()
        started = time.perf_counter()
        self.llm.generate(prompts, params)
        return time.perf_counter() - started

    def decode(self, num_requests: int) -> float:
        """Tokens a second."""
        times = [self.run(num_requests, 128, 130) - self.run(num_requests, 128, 2) for _ in range(3)]
        return 128 * num_requests / min(times)

    def ttft(self, prompt_len: int) -> float:
        """Milliseconds."""
        return 1e3 * min(self.run(1, prompt_len, 1) for _ in range(4))

    def offline(self, prompt_len: int, num_new: int) -> float:
        """Output tokens a second."""
        return 1024 * num_new / self.run(1024, prompt_len, num_new)

    def profile(self, num_requests: int) -> None:
        """Print where the GPU's time of 20 decode steps goes, and how long it was idle."""
        params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True, detokenize=False)
        engine = self.llm.engine
        for number in range(num_requests):
            engine.add_request(f"profile-{number}", self.rng.choices(range(self.vocab_size), k=128), params)
        while engine.stats().num_waiting or engine.stats().num_steps % 8:
            engine.step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            torch.cuda.synchronize()
            started = time.perf_counter()
            for _ in range(20):
                engine.step()
            torch.cuda.synchronize()
            wall = time.perf_counter() - started
        rows = sorted(profiler.key_averages(), key=lambda row: -row.self_device_time_total)
        busy = sum(row.self_device_time_total for row in rows) / 20
        print(f"batch {num_requests}: {wall / 20 * 1e6:.0f} us a step, the GPU is busy for {busy:.0f}")
        for row in rows[:16]:
            print(f"  {row.self_device_time_total / 20:8.1f} us {row.count / 20:6.1f} x {row.key[:90]}")
        for number in range(num_requests):
            engine.abort(f"profile-{number}")
        while engine.has_unfinished:
            engine.step()


class _Nothing:
    def keys(self) -> list[str]:
        return []


_NOTHING: Any = _Nothing()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--only", default="decode,ttft,profile,offline")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",")
    started = time.perf_counter()
    traced = ad.trace(llama_8b(options.layers), dtype=options.dtype)
    optimized = ad.optimize(traced, gpu="h200")
    program = random_program(optimized, DTYPES[options.dtype])
    print(f"program in {time.perf_counter() - started:.1f} s")
    started = time.perf_counter()
    bench = Bench(program)
    print(f"engine in {time.perf_counter() - started:.1f} s; {torch.cuda.memory_allocated() / 2**30:.1f} GiB")
    results: dict[str, float] = {}
    bench.run(4, 128, 4)
    if "decode" in wanted:
        for size in (1, 8, 64, 256):
            results[f"decode bs{size}"] = bench.decode(size)
            print(f"decode bs{size}: {results[f'decode bs{size}']:.1f} tok/s", flush=True)
    if "ttft" in wanted:
        for length in (128, 4096):
            results[f"ttft {length}"] = bench.ttft(length)
            print(f"ttft {length}: {results[f'ttft {length}']:.2f} ms", flush=True)
    if "profile" in wanted:
        for size in (1, 256):
            bench.profile(size)
    if "offline" in wanted:
        for shape in ((1024, 128), (128, 128)):
            name = f"offline {shape[0]}x{shape[1]}"
            results[name] = bench.offline(*shape)
            print(f"{name}: {results[name]:.0f} tok/s", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps({**context(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

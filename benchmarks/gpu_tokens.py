"""Tokens of a real model on CUDA against transformers on the CPU: equal in fp32, top-5 close in bf16.

usage: python benchmarks/gpu_tokens.py MODEL [--tokens 64]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import autodeploy as ad
from autodeploy.hub import resolve

PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "Water boils at",
    "In 1969, humans",
    "The three laws of motion are",
)


def divergence(ours: list[int], theirs: list[int]) -> int | None:
    """The first position at which two answers differ."""
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    folder = resolve(options.model).folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        answer = reference.generate(**ids, max_new_tokens=options.tokens, do_sample=False)
        wanted.append(answer[0, ids["input_ids"].shape[1] :].tolist())
    for dtype in ("fp32", "bf16"):
        llm = ad.LLM(options.model, gpu="h200", dtype=dtype, set={"runtime.max_batch_size": 8})
        params = ad.SamplingParams(max_tokens=options.tokens, temperature=0, logprobs=5)
        answers = [list(one.outputs[0].token_ids) for one in llm.generate(list(PROMPTS), params)]
        places = [divergence(ours, theirs) for ours, theirs in zip(answers, wanted, strict=True)]
        print(dtype, "equal" if not any(places) else f"first differences at {places}")


if __name__ == "__main__":
    main()

"""What transformers generates: the answers ours are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answer:
    """Greedy tokens, and the five likeliest at each position."""

    token_ids: list[int]
    top5: list[list[int]]


def answers(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    prompts: tuple[str, ...],
    num_tokens: int,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> list[Answer]:
    """Generate one prompt at a time, as a user of transformers would."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")
        result = model.generate(
            **ids, max_new_tokens=num_tokens, do_sample=False, output_scores=True, return_dict_in_generate=True
        )
        tokens = result.sequences[0, ids["input_ids"].shape[1] :].tolist()
        found.append(Answer(tokens, [scores[0].topk(5).indices.tolist() for scores in result.scores]))
    return found


def divergence(ours: list[int], theirs: list[int]) -> int | None:
    """The first position at which two answers differ; None when they are equal."""
    different = (i for i, (left, right) in enumerate(zip(ours, theirs, strict=False)) if left != right)
    return next(different, None if len(ours) == len(theirs) else min(len(ours), len(theirs)))

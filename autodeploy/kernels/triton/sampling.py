"""Choosing tokens on the device: penalties, temperature, top-k, top-p, min-p and seeded draws, each row by its own.

The rules are those of `runtime.sampler.Sampler`, and so are the draws: what a row gets depends on its own logits,
parameters, key and position, not on the batch. Nothing is sorted, and nothing waits for the device. Weights are float32
here and float64 there: a draw that falls on the edge between two tokens may take the other one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from autodeploy.kernels.triton.drawing import LOG2_E, draw_in_id_order, draw_nearest_first, uniform_draw
from autodeploy.kernels.triton.launch import await_inputs, overlap
from autodeploy.runtime.packing import Kept

GREEDY_BELOW = tl.constexpr(1e-5)
CHUNK = 4096  # tokens a program adjusts
NEAR = 4096  # tokens worth copying together


@dataclass(frozen=True)
class Bias:
    """What is added to single logits: `tokens` int32, `values` float32, `[N, B]`; a negative token fills a row up."""

    tokens: Tensor
    values: Tensor


@dataclass(frozen=True)
class Penalized:
    """Penalties float32 `[N]`, and what they are about.

    `rows [N]` int64 names each request's row in `output_counts [R, V]` int32 and `prompt_seen [R, V]` bool.
    """

    repetition: Tensor
    presence: Tensor
    frequency: Tensor
    rows: Tensor
    output_counts: Tensor
    prompt_seen: Tensor


@dataclass(frozen=True)
class Rules:
    """How the rows are sampled, as tensors on the device `[N]`, or longer.

    `temperature`, `top_p` and `min_p` are float32, and `top_k` int32 (0: off). A temperature under 1e-5 takes the most
    likely token. `keys` and `positions` are int64: the bits of the request's key, and how many tokens it has generated.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    keys: Tensor
    positions: Tensor
    bias: Bias | None = None
    penalized: Penalized | None = None


@triton.jit(do_not_specialize=["num_biases"])  # it differs from step to step
def _adjust_kernel(
    logits,
    temperature,
    bias_tokens,
    bias_values,
    repetition,
    presence,
    frequency,
    rows,
    output_counts,
    prompt_seen,
    adjusted,
    tops,
    top_ids,
    stride,
    vocab_size,
    num_biases,
    chunks,
    overlapped: tl.constexpr,
    CHUNK: tl.constexpr,  # noqa: N803
) -> None:
    """Adjust and scale one chunk of one row, and find its largest logit. Without temperatures, only find it."""
    await_inputs(overlapped)
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * CHUNK
    token = start + tl.arange(0, CHUNK)
    known = token < vocab_size
    logit = tl.load(logits + row * stride + token, mask=known, other=float("-inf")).to(tl.float32)
    if bias_tokens is not None:
        for one in range(num_biases):
            biased = tl.load(bias_tokens + row * num_biases + one)
            if (biased >= start) & (biased < start + CHUNK):
                logit = tl.where(token == biased, logit + tl.load(bias_values + row * num_biases + one), logit)
    if repetition is not None:
        at = tl.load(rows + row) * vocab_size + token
        count = tl.load(output_counts + at, mask=known, other=0)
        seen = tl.load(prompt_seen + at, mask=known, other=0).to(tl.int1) | (count > 0)
        factor = tl.load(repetition + row)
        logit = tl.where(seen, tl.where(logit > 0.0, logit / factor, logit * factor), logit)
        logit -= tl.load(frequency + row) * count.to(tl.float32)
        logit -= tl.where(count > 0, tl.load(presence + row), 0.0)
    if temperature is not None:
        heat = tl.load(temperature + row)
        logit = logit / tl.where(heat < GREEDY_BELOW, 1.0, heat)
        tl.store(adjusted + row * vocab_size + token, logit, mask=known)
    top = tl.max(logit, axis=0)
    tl.store(tops + row * chunks + tl.program_id(1), top)
    tl.store(top_ids + row * chunks + tl.program_id(1), tl.min(tl.where(logit == top, token, vocab_size), axis=0))


@triton.jit
def _choose_kernel(
    adjusted,
    tops,
    top_ids,
    temperature,
    top_k,
    top_p,
    min_p,
    keys,
    positions,
    near_distances,
    near_ids,
    token_ids,
    last_tokens,
    kept_in,
    vocab_size,
    chunks,
    overlapped: tl.constexpr,
    CHUNKS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    NEAR: tl.constexpr,  # noqa: N803
) -> None:
    """The token of one row, the most likely one where no temperatures are given; it also goes to its last tokens."""
    await_inputs(overlapped)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.arange(0, CHUNKS)
    chunk_tops = tl.load(tops + row * chunks + chunk, mask=chunk < chunks, other=float("-inf"))
    top = tl.max(chunk_tops, axis=0)
    ids = tl.load(top_ids + row * chunks + chunk, mask=chunk < chunks, other=vocab_size)
    token = tl.min(tl.where(chunk_tops == top, ids, vocab_size), axis=0)
    if temperature is not None:  # noqa: SIM102  decided when the kernel is compiled
        if tl.load(temperature + row) >= GREEDY_BELOW:
            distances = adjusted + row * vocab_size
            least = tl.load(min_p + row)
            farthests = tl.zeros((BLOCK,), tl.float32)
            for start in range(0, vocab_size, BLOCK):
                at = start + tl.arange(0, BLOCK)
                logit = tl.load(distances + at, mask=at < vocab_size, other=float("-inf"))
                weight = tl.exp2((logit - top) * LOG2_E)
                drawable = (weight > 0.0) & (weight >= least)
                distance = tl.where(drawable, top - logit, float("inf"))
                farthests = tl.where(drawable, tl.maximum(farthests, distance), farthests)
                tl.store(distances + at, distance, mask=at < vocab_size)
            farthest = tl.max(farthests, axis=0)
            tl.debug_barrier()  # other threads read what these wrote
            draw = uniform_draw(tl.load(keys + row), tl.load(positions + row))
            k = tl.load(top_k + row)
            p = tl.load(top_p + row)
            if (k <= 0) & (p >= 1.0):
                token = draw_in_id_order(distances, vocab_size, farthest, draw, BLOCK)
            else:
                token = draw_nearest_first(
                    distances, vocab_size, farthest, draw, k, p,
                    near_distances + row * NEAR, near_ids + row * NEAR, BLOCK, NEAR,
                )  # fmt: skip
    tl.store(token_ids + row, token.to(tl.int64))
    if last_tokens is not None:
        tl.store(last_tokens + tl.load(kept_in + row), token.to(tl.int64))


def sample(logits: Tensor, rules: Rules | None = None, kept: Kept | None = None) -> Tensor:
    """Token ids int64 `[N]` for `logits [N, V]` of any floating dtype, left unchanged; without rules, the most likely.

    Among equally likely tokens, the lowest id comes first. `kept` gets them as well.
    """
    count, vocab_size = logits.shape
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    token_ids = torch.empty(count, dtype=torch.int64, device=logits.device)
    if not count:
        return token_ids
    chunks = triton.cdiv(vocab_size, CHUNK)
    tops = torch.empty((count, chunks), dtype=torch.float32, device=logits.device)
    top_ids = torch.empty((count, chunks), dtype=torch.int32, device=logits.device)
    adjusted, near_distances, near_ids = (None, None, None) if rules is None else _workspace(logits)
    bias, penalized = (None, None) if rules is None else (rules.bias, rules.penalized)
    _adjust_kernel[(count, chunks)](
        logits,
        rules and rules.temperature,
        bias and bias.tokens,
        bias and bias.values,
        penalized and penalized.repetition,
        penalized and penalized.presence,
        penalized and penalized.frequency,
        penalized and penalized.rows,
        penalized and penalized.output_counts,
        penalized and penalized.prompt_seen,
        adjusted,
        tops,
        top_ids,
        logits.stride(0),
        vocab_size,
        bias.tokens.shape[1] if bias else 0,
        chunks,
        CHUNK=min(CHUNK, triton.next_power_of_2(vocab_size)),
        num_warps=8,
        **overlap(logits.device),
    )
    _choose_kernel[(count,)](
        adjusted,
        tops,
        top_ids,
        rules and rules.temperature,
        rules and rules.top_k,
        rules and rules.top_p,
        rules and rules.min_p,
        rules and rules.keys,
        rules and rules.positions,
        near_distances,
        near_ids,
        token_ids,
        kept and kept.last_tokens,
        kept and kept.rows,
        vocab_size,
        chunks,
        CHUNKS=triton.next_power_of_2(chunks),
        BLOCK=min(4096, triton.next_power_of_2(vocab_size)),
        NEAR=NEAR,
        num_warps=1 if rules is None else 16,
        **overlap(logits.device),
    )
    return token_ids


def _workspace(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    count, vocab_size = logits.shape
    adjusted = torch.empty((count, vocab_size), dtype=torch.float32, device=logits.device)
    near_distances = torch.empty((count, NEAR), dtype=torch.float32, device=logits.device)
    return adjusted, near_distances, torch.empty((count, NEAR), dtype=torch.int32, device=logits.device)

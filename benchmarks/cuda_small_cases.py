"""The kernels between the matmuls, which at batch 1 cost little more than their launch, and sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from cuda_timing import Case, Variant, buffers
from torch import Tensor
from torch.nn.functional import silu

from autodeploy.kernels.triton.activation import gated_activation
from autodeploy.kernels.triton.norm import add_rms_norm
from autodeploy.kernels.triton.rope import rope
from autodeploy.kernels.triton.sampling import Rules, sample

BF16 = torch.bfloat16
HIDDEN, INNER, HEADS, WIDTH, VOCAB_SIZE = 4096, 14336, 32, 128, 128256


def draw(*size: int) -> Tensor:
    return torch.randn(size, device="cuda", dtype=BF16)


def row_cases(rows: tuple[int, ...]) -> Iterator[Case]:
    for m in rows:
        yield _norm(m)
        yield _gated(m)
        yield _rope(m)


def _norm(m: int) -> Case:
    size = m * HIDDEN * 8
    weight, sets = draw(HIDDEN), [(draw(m, HIDDEN), draw(m, HIDDEN)) for _ in range(buffers(size))]

    def ours(x: Tensor, residual: Tensor) -> Tensor:
        return add_rms_norm(x, residual, weight, 1e-5)[0]

    def theirs(x: Tensor, residual: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(x + residual, (HIDDEN,), weight, 1e-5)

    variants = _both(ours, theirs, sets)
    wide = [x.float() for x in sets[0]]
    expected = torch.nn.functional.rms_norm(wide[0] + wide[1], (HIDDEN,), weight.float(), 1e-5)
    return Case("add_rms_norm", f"{m}x{HIDDEN}", variants, size, 0, lambda: expected)


def _gated(m: int) -> Case:
    size = m * INNER * 6
    sets = [draw(m, 2 * INNER).chunk(2, dim=1) for _ in range(buffers(size))]

    def ours(gate: Tensor, up: Tensor) -> Tensor:
        return gated_activation(gate, up, "silu")

    def theirs(gate: Tensor, up: Tensor) -> Tensor:
        return silu(gate) * up

    expected = theirs(*(x.float() for x in sets[0]))
    return Case("gated_activation", f"{m}x{INNER}", _both(ours, theirs, sets), size, 0, lambda: expected)


def _rope(m: int) -> Case:
    size = m * HEADS * WIDTH * 4
    cos, sin = draw(m, WIDTH), draw(m, WIDTH)
    sets = [(draw(m, HEADS, WIDTH),) for _ in range(buffers(size))]
    variants = [Variant("rope", [partial(rope, *one, cos, sin) for one in sets])]
    return Case("rope", f"{m}x{HEADS}x{WIDTH}", variants, size)


def _both(ours: object, theirs: object, sets: Sequence[tuple[Tensor, ...]]) -> list[Variant]:
    assert callable(ours)
    assert callable(theirs)
    return [Variant(name, [partial(run, *one) for one in sets]) for name, run in (("triton", ours), ("torch", theirs))]


RULES = {
    "whole": (0.8, 0, 1.0),
    "top_p 0.9": (0.8, 0, 0.9),
    "top_k 50": (0.8, 50, 1.0),
    "top_k 50, top_p 0.9": (0.8, 50, 0.9),
}


def sampling_cases(rows: tuple[int, ...]) -> Iterator[Case]:
    for m in rows:
        size = m * VOCAB_SIZE * 2
        # a spread of 3 keeps some hundred tokens in top_p, as language models do
        sets = [draw(m, VOCAB_SIZE) * 3 for _ in range(buffers(size))]
        variants = [
            Variant("greedy", [partial(sample, one) for one in sets]),
            Variant("torch.argmax", [partial(torch.argmax, one, -1) for one in sets]),
            Variant("torch.sort", [partial(torch.sort, one, -1) for one in sets]),
        ]
        for name, rule in RULES.items():
            variants.append(Variant(name, [partial(sample, one, _rules(m, *rule)) for one in sets]))
        yield Case("sample", f"{m}x{VOCAB_SIZE}", variants, size)


def _rules(count: int, temperature: float, top_k: int, top_p: float) -> Rules:
    def column(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((count,), value, dtype=dtype, device="cuda")

    keys = torch.randint(0, 1 << 62, (count,), device="cuda")
    k = column(top_k, torch.int32)
    return Rules(column(temperature), k, column(top_p), column(0.0), keys, torch.zeros_like(keys))

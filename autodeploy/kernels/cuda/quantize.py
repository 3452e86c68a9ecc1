"""Rows in 8 bits by `quantize.cu`, which shares out a row among the multiprocessors that few rows leave idle."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from autodeploy.kernels.cuda import why_unavailable
from autodeploy.kernels.cuda.compile import Variant
from autodeploy.kernels.cuda.launch import launch
from autodeploy.kernels.triton.launch import overlaps

EACH = 8
"""Neighbouring numbers of a thread, a word of 16 bytes."""
MOST_ROWS = 16
MOST_THREADS = 1024
MOST_PARTS = 8
FEW_WORDS = 512
GATES = {"silu": 0, "gelu_tanh": 1}
QUANTIZED, NORMED, GATED = range(3)


class Norm(ctypes.Structure):
    """What an RMSNorm takes besides tensors, as the kernel has it."""

    _fields_ = (("inverse_width", ctypes.c_float), ("eps", ctypes.c_float), ("offset", ctypes.c_float))


@dataclass(frozen=True)
class Cut:
    """The blocks that a row is shared out among, and the threads of each."""

    parts: int
    threads: int


def cut_of(width: int) -> Cut:
    """One block for what a few warps hold, else as many as a cluster can have."""
    words = width // EACH
    parts = 1 if words <= FEW_WORDS else MOST_PARTS
    return Cut(parts, -(-words // (32 * parts)) * 32)


def serves(*rows: Tensor | None, group: int, scale: Tensor | None) -> bool:
    """Whether rows `[M, width]`, of which the first are quantized, can be read 16 bytes at a time, and all of a row has
    one scale of its own."""
    first = rows[0]
    assert first is not None
    few, width = first.shape
    return bool(
        overlaps(first.device)
        and why_unavailable() is None
        and 0 < few <= MOST_ROWS
        and width <= EACH * MOST_THREADS * MOST_PARTS
        and first.dtype in (torch.bfloat16, torch.float16)
        and scale is None
        and group in (0, width)
        and all(one is None or _in_words(one) for one in rows)
    )


def _in_words(rows: Tensor) -> bool:
    return rows.data_ptr() % 16 == 0 and all(size % EACH == 0 for size in (*rows.stride()[:-1], rows.shape[-1]))


def quantize(x: Tensor, values: Tensor, scale: Tensor) -> None:
    """Fill values and scale with `ops.quantize` of rows x."""
    _launch(QUANTIZED, x, None, None, None, values, scale)


def norm_and_quantize(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    total: Tensor | None,
    values: Tensor,
    scale: Tensor,
    how: tuple[float, float, bool],
) -> None:
    """Fill total, values and scale with `ops.add_rms_norm_quantize`; `how` is eps, offset and scale_in_float32."""
    eps, offset, wide = how
    numbers = (("SUMMED", residual is not None), ("WEIGHTED", weight is not None), ("WIDE", wide))
    _launch(NORMED, x, residual, weight, total, values, scale, numbers, Norm(1.0 / x.shape[1], eps, offset))


def gate_and_quantize(gate: Tensor, up: Tensor, kind: str, values: Tensor, scale: Tensor) -> None:
    """Fill values and scale with `ops.gated_activation_quantize` for an activation in GATES."""
    _launch(GATED, gate, up, None, None, values, scale, (("GATE", GATES[kind]),))


def _launch(
    kind: int,
    x: Tensor,
    other: Tensor | None,
    weight: Tensor | None,
    total: Tensor | None,
    values: Tensor,
    scale: Tensor,
    numbers: tuple[tuple[str, int], ...] = (),
    norm: Norm = Norm(),  # noqa: B008  never changed
) -> None:
    rows, width = x.shape
    cut = cut_of(width)
    given = {
        "KIND": kind, "PARTS": cut.parts, "THREADS": cut.threads, "HALF": x.dtype == torch.float16,
        "INTEGER": values.dtype == torch.int8, "SUMMED": 0, "WEIGHTED": 0, "WIDE": 0, "GATE": 0, **dict(numbers),
    }  # fmt: skip
    variant = Variant("quantize.cu", "quantize", tuple((name, int(number)) for name, number in given.items()))
    sizes = (size // EACH for size in (x.stride(0), 0 if other is None else other.stride(0), width))
    operands = (x, other, weight, total, values, scale, *sizes, norm)
    launch(variant, (rows * cut.parts, 1, 1), cut.threads, 0, operands, x.device, cut.parts)

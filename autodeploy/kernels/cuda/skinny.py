"""Projections of few rows by weights that are multiplied as they are stored, by the kernel `skinny`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from autodeploy.kernels.cuda.compile import Variant
from autodeploy.kernels.cuda.gates import GATES
from autodeploy.kernels.cuda.launch import launch
from autodeploy.kernels.cuda.lines import aligned, lines
from autodeploy.kernels.cuda.packed import projection
from autodeploy.kernels.cuda.skinny_plan import ROWS, SHEETS, TOKENS, UNIT_BYTES, SkinnyCut, tiles
from autodeploy.kernels.triton.launch import multiprocessors
from autodeploy.kernels.triton.rows import dense
from autodeploy.kernels.triton.shares import counters, shares_of

NUMBERS = {torch.float8_e4m3fn: 1, torch.bfloat16: 2, torch.float16: 3, torch.int8: 4}
SCALES = {None: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3}


@dataclass(frozen=True)
class Stored:
    """A weight `[n, k]`, of two halves with a gate, scales of its rows `[n or 1, 1]` and of x `[..., 1]` or `[]`."""

    weight: Tensor
    scale: Tensor | None = None
    x_scale: Tensor | None = None


@dataclass(frozen=True)
class Added:
    """What is added in the dtype of the result: a bias `[n]` before a gate, a residual `[..., n]` at the end."""

    bias: Tensor | None = None
    residual: Tensor | None = None


def bind(cut: SkinnyCut) -> Callable[..., Tensor]:
    """`ops.linear` and `ops.gated_linear` in a cut."""

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, kind: str | None = None) -> Tensor:
        return run(x, Stored(weight), Added(bias), cut, x.dtype, kind)

    return linear


def bind_residual(cut: SkinnyCut) -> Callable[..., Tensor]:
    """`ops.residual_linear` in a cut."""

    def linear(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        return run(x, Stored(weight), Added(residual=residual), cut, x.dtype)

    return linear


def bind_scaled(cut: SkinnyCut) -> Callable[..., Tensor]:
    """`ops.scaled_linear` and `ops.scaled_gated_linear` in a cut."""

    def linear(
        x: Tensor,
        x_scale: Tensor,
        weight: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        kind: str | None = None,
    ) -> Tensor:
        return run(x, Stored(weight, weight_scale, x_scale), Added(bias), cut, dtype, kind)

    return linear


def bind_packed(cut: SkinnyCut) -> Callable[..., Tensor]:
    """`ops.packed_linear` and `ops.packed_gated_linear` in a cut, of int8."""
    return projection(
        lambda x, weight, scale, zero, bias, gate: run(x, Stored(weight, scale), Added(bias), cut, x.dtype, gate)
    )


def run(x: Tensor, stored: Stored, added: Added, cut: SkinnyCut, dtype: torch.dtype, gate: str | None = None) -> Tensor:
    """`x [..., k]` by a stored weight `[n, k]`, or `[2 n, k]` with a gate -> `[..., n]` in a dtype of 16 bits.

    It is for what `skinny_plan.declines` does not decline, in a cut that `cuts` its rows. Raises CompileError and
    LaunchError.
    """
    n = stored.weight.shape[0] if gate is None else stored.weight.shape[0] // 2
    out = torch.empty((*x.shape[:-1], n), dtype=dtype, device=x.device)
    if out.numel():
        _fill(lines(x.reshape(-1, x.shape[-1])), stored, added, out, cut, gate)
    return out


def _fill(rows: Tensor, stored: Stored, added: Added, out: Tensor, cut: SkinnyCut, gate: str | None) -> None:
    (m, k), n = rows.shape, out.shape[-1]
    count = tiles(stored.weight.shape[0])
    blocks = min(count, max(multiprocessors(rows.device) // cut.split, 1))
    operands = (rows, aligned(stored.weight), dense(stored.x_scale), dense(stored.scale))
    shares = shares_of(count, cut.split, ROWS * TOKENS, rows.device)
    sizes = (m, n, rows.stride(0) * rows.itemsize, _step(stored.x_scale), _step(stored.scale), count)
    launch(
        variant_of(rows.dtype, k, stored, out.dtype, cut, gate),
        (blocks, cut.split, 1),
        32 * (cut.team + SHEETS),
        cut.ring_bytes,
        (*operands, dense(added.bias), dense(added.residual), out, shares, counters(rows.device), *sizes),
        rows.device,
    )


def _step(scales: Tensor | None) -> int:
    """How far the scale of the next row is from that of a row."""
    return 0 if scales is None or scales.numel() == 1 else 1


def variant_of(
    x_dtype: torch.dtype, k: int, stored: Stored, dtype: torch.dtype, cut: SkinnyCut, gate: str | None
) -> Variant:
    """The kernel for rows of k numbers in x_dtype and results in dtype, in a cut."""
    numbers = {
        "NUMBERS": NUMBERS[stored.weight.dtype],
        "DIGITS": int(stored.weight.dtype != x_dtype),
        "SCALE": SCALES[None if stored.scale is None else stored.scale.dtype],
        "UNITS": k * stored.weight.itemsize // UNIT_BYTES,
        "TEAM": cut.team,
        "STEPS": cut.steps,
        "STAGES": cut.stages,
        "SPLIT": cut.split,
        "RESIDENT": cut.resident,
        "HALF": int(dtype == torch.float16),
        "GATE": GATES[gate],
    }
    return Variant("skinny.cu", "skinny", tuple(numbers.items()))

"""Projections of few rows by int4 in groups, by the kernel `narrow`: running it in a configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from autodeploy.kernels.cuda.compile import Variant
from autodeploy.kernels.cuda.gates import GATES
from autodeploy.kernels.cuda.launch import launch
from autodeploy.kernels.cuda.lines import aligned, lines
from autodeploy.kernels.cuda.narrow_plan import COLUMNS, NarrowConfig, tokens_of
from autodeploy.kernels.cuda.packed import projection
from autodeploy.kernels.triton.launch import multiprocessors
from autodeploy.kernels.triton.rows import dense
from autodeploy.kernels.triton.shares import counters, shares_of

KINDS = {None: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3, torch.uint8: 4}


@dataclass(frozen=True)
class Stored:
    """A weight uint8 `[n, k/2]`, or of two halves with a gate, with its scales and zero points `[n, groups]`."""

    weight: Tensor
    scale: Tensor
    zero: Tensor | None = None


def bind(config: NarrowConfig) -> Callable[..., Tensor]:
    """`ops.packed_linear` and `ops.packed_gated_linear` in a configuration, of int4."""
    return projection(
        lambda x, weight, scale, zero, bias, gate: run(x, Stored(weight, scale, zero), bias, config, gate)
    )


def run(x: Tensor, stored: Stored, bias: Tensor | None, config: NarrowConfig, gate: str | None = None) -> Tensor:
    """`x [..., k]` of 16-bit floats by a stored weight `[n, k]`, or `[2 n, k]` with a gate -> `[..., n]`.

    It is for what `narrow_plan.declines` does not decline. Raises CompileError and LaunchError.
    """
    n = stored.weight.shape[0] if gate is None else stored.weight.shape[0] // 2
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    if out.numel():
        _fill(lines(x.reshape(-1, x.shape[-1])), stored, dense(bias), out, config, gate)
    return out


def _fill(
    rows: Tensor, stored: Stored, bias: Tensor | None, out: Tensor, config: NarrowConfig, gate: str | None
) -> None:
    (m, k), n = rows.shape, out.shape[-1]
    tiles = config.tiles(n, gate is not None)
    blocks = min(ceil(tiles / config.teams), max(multiprocessors(rows.device) // config.split, 1))
    shares = shares_of(tiles, config.split, 16 * config.slabs * max(tokens_of(m), 8), rows.device)
    operands = (rows, aligned(stored.weight), aligned(stored.scale), dense(stored.zero), bias)
    launch(
        variant_of(m, k, stored, out.dtype, config, gate),
        (blocks, config.split, 1),
        32 * config.team * config.teams,
        config.shared_bytes(m, k // COLUMNS),
        (*operands, out, shares, counters(rows.device), m, n, rows.stride(0) * rows.itemsize, tiles),
        rows.device,
    )


def variant_of(m: int, k: int, stored: Stored, dtype: torch.dtype, config: NarrowConfig, gate: str | None) -> Variant:
    """The kernel for x `[m, k]` in dtype, in a configuration."""
    units = k // COLUMNS
    numbers = {
        "TOKENS": tokens_of(m),
        "SLABS": config.slabs,
        "TEAM": config.team,
        "TEAMS": config.teams,
        "STEPS": config.steps,
        "STAGES": config.stages,
        "SPLIT": config.split,
        "FIT": int(config.fitted and tokens_of(m) <= 8),
        "UNITS": units,
        "SCALE": KINDS[stored.scale.dtype],
        "ZERO": KINDS[None if stored.zero is None else stored.zero.dtype],
        "HALF": int(dtype == torch.float16),
        "GATE": GATES[gate],
    }
    return Variant("narrow.cu", "narrow", tuple(numbers.items()))

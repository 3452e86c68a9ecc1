"""Launching `direct`: matmuls of few rows by weights in 8 and 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl

from autodeploy.kernels.triton.direct import direct_kernel
from autodeploy.kernels.triton.direct_operands import WORDS
from autodeploy.kernels.triton.launch import overlap
from autodeploy.kernels.triton.quantized import QuantizedConfig, rows_of_program
from autodeploy.kernels.triton.shares import counters, shares_of

FLOATS = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


@dataclass(frozen=True)
class Stored:
    """A weight `[n, k]` in a format, or of two halves with a gate, and what scales it; x_scale is that of fp8 rows."""

    format: str
    weight: Tensor
    scale: Tensor
    zero: Tensor | None = None
    x_scale: Tensor | None = None

    @property
    def words(self) -> Tensor:
        """The weight as words of 32 bits."""
        return self.weight.view(torch.int32)

    @property
    def units(self) -> int:
        """How many times 16 words a row has."""
        return int(self.words.shape[1]) // int(WORDS)


def fill_directly(
    rows: Tensor, stored: Stored, bias: Tensor | None, out: Tensor, config: QuantizedConfig, gate: str | None
) -> None:
    """Fill out `[m, n]` from rows `[m, k]` of 16-bit floats or of fp8, in a configuration that `direct_plan` allows."""
    m, n = rows.shape[0], out.shape[-1]
    x, units, groups = _as_words(rows), stored.units, stored.scale.shape[1]
    tiles = triton.cdiv(n, config.block_n if gate is None else config.block_n // 2)
    tokens = rows_of_program(config, m)
    shares = shares_of(tiles, config.split_k, config.block_n * tokens, rows.device)
    outs = (stored.scale, stored.zero, bias, out, shares, counters(rows.device), m, n, x.stride(0))
    x_groups = 0 if stored.x_scale is None or stored.x_scale.numel() == 1 else 1
    options: dict[str, Any] = {
        "format": stored.format,
        "dtype": FLOATS.get(rows.dtype, gl.float16),
        "gate": gate,
        "shared": config.split_k > 1,
        "GROUP": 0 if groups == 1 else units // groups,
        "SCALE_ROWS": 0 if stored.scale.shape[0] == 1 else 1,
        "ROWS": config.block_n,
        "TOKENS": tokens,
        "num_warps": config.num_warps,
        **overlap(rows.device),
    }
    turn = config.num_warps * config.num_stages
    turns = triton.cdiv(units, turn * config.split_k)
    even = units == turns * turn * config.split_k
    direct_kernel[(tiles, config.split_k)](
        x, stored.x_scale, stored.words, *outs, stored.words.stride(0), groups, units, turns, x_groups,
        even=even, STAGES=config.num_stages, **options,
    )  # fmt: skip


def _as_words(rows: Tensor) -> Tensor:
    """Rows as words of 32 bits; a copy only where they do not begin with words."""
    each = 4 // rows.itemsize
    aligned = rows.data_ptr() % 4 == 0 and (rows.stride(0) % each == 0 or rows.shape[0] == 1)
    return (rows if aligned else rows.clone(memory_format=torch.contiguous_format)).view(torch.int32)

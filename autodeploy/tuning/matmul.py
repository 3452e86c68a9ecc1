"""What is tuned: the distinct projections of a graph, apart from the number of their rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from autodeploy import ops
from autodeploy.graph.nodes import arguments, calls_of, form, value
from autodeploy.kernels.storage import PLAIN, Storage

LINEAR = (ops.linear.overload, ops.gated_linear.overload)
PACKED = (ops.packed_linear.overload, ops.packed_gated_linear.overload)
SCALED = (ops.scaled_linear.overload, ops.scaled_gated_linear.overload)
RESIDUAL = ops.residual_linear.overload
MATMULS = (*LINEAR, *PACKED, *SCALED, RESIDUAL)
"""The operators that are tuned."""


@dataclass(frozen=True, order=True)
class Matmul:
    """A projection of some rows `[M, k]` by a weight `[n, k]`, apart from M.

    `dtype` is that of its result, `gate` the kind of a gated one, and empty for others. One `has_residual` whose result
    is added to a residual.
    """

    n: int
    k: int
    dtype: str
    has_bias: bool = False
    gate: str = ""
    storage: Storage = PLAIN
    has_residual: bool = False

    @classmethod
    def of(cls, call: Node) -> Matmul:
        """What a call of one of `MATMULS` computes."""
        named = arguments(call)
        n, k = form(named["weight"])[1][0], form(named["x"])[1][-1]
        assert n is not None
        assert k is not None
        dtype, has_bias, gate = _name(form(call)[0]), named.get("bias") is not None, named.get("kind", "")
        return cls(n, k, dtype, has_bias, gate, _storage(named), "residual" in named)

    @property
    def op(self) -> torch._ops.OpOverload:
        """The operator that computes it."""
        if self.has_residual:
            return RESIDUAL
        family = SCALED if self.storage.quantizes_activations else PACKED if self.storage.format else LINEAR
        return family[bool(self.gate)]

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of the result."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @property
    def weight_bytes(self) -> int:
        """What a step must read of it at least, apart from scales."""
        bits = {"": 8 * self.torch_dtype.itemsize, "int8": 8, "fp8": 8}.get(self.storage.format, 4)
        return self.n * self.k * bits // 8

    def __str__(self) -> str:
        shift = " + bias" * self.has_bias + " + residual" * self.has_residual
        return f"[{self.n}, {self.k}] {self.dtype}{shift} {self.gate}".rstrip() + str(self.storage)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _storage(named: dict[str, Any]) -> Storage:
    """How the weight of a call is stored, from its arguments by name."""
    if "x_scale" in named:
        scale, groups_of_x = value(named["weight_scale"]), form(named["x_scale"])[1]
        format = "int8" if value(named["weight"]).dtype == torch.int8 else "fp8"
        rows, groups = map(int, scale.shape)
        return Storage(format, _name(scale.dtype), rows, groups, x_groups=(groups_of_x or (0,))[-1] or 0)
    if "format" in named:
        scale, zero = value(named["scale"]), named["zero"]
        zeros = "" if zero is None else _name(value(zero).dtype)
        rows, groups = map(int, scale.shape)
        return Storage(named["format"], _name(scale.dtype), rows, groups, zeros, named["global_scale"] is not None)
    return PLAIN


def matmuls_of(graph: Graph) -> tuple[Matmul, ...]:
    """The distinct projections of a graph."""
    return tuple(sorted({Matmul.of(call) for call in calls_of(graph, *MATMULS)}))

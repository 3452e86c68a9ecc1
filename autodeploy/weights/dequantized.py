"""Weights that a checkpoint stores quantized: read as numbers where nothing takes over what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from autodeploy.quantization.formats import BLOCK, PACKED, dequantize
from autodeploy.quantization.scheme import Activations, Scheme, Scope
from autodeploy.weights.expression import Box, Cast, Expression
from autodeploy.weights.layout import Concat, Expand, Slice
from autodeploy.weights.source import TensorSource


@dataclass(frozen=True)
class Dequantized(Expression):
    """The numbers `[N, K]` that stored parts stand for, laid out as `autodeploy.quantization.formats` says, in `to`.

    `activations` says how the checkpoint's author means the inputs to be quantized: not, with a scale that is found as
    they come (for each `activation_group` of a row, or for all of it), or with the static `input_scale []`.

    What is stored may be of a weight whose columns were divided by a `factor [K]` (AWQ and SmoothQuant, where it is not
    folded into the layer before), so that its inputs are to be multiplied by it before anything else. And its columns
    may be in another `order [K]` (int64: column j is column `order[j]` of the weight), as GPTQ's act-order has it. The
    numbers are those of the weight without either.
    """

    values: Expression
    scale: Expression
    zero: Expression | None
    global_scale: Expression | None
    format: str
    to: torch.dtype
    activations: Activations = "none"
    activation_group: int = 0
    input_scale: Expression | None = None
    factor: Expression | None = None
    order: Expression | None = None

    def __post_init__(self) -> None:
        if (self.activations == "static") != (self.input_scale is not None):
            raise ValueError("inputs are quantized statically by an input scale")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of the weight, not of what is stored."""
        rows, columns = self.values.shape
        return rows, columns * 2 if self.format in PACKED else columns

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """The dtype that it reads as."""
        return self.to

    @property
    @override
    def operands(self) -> tuple[Expression, ...]:
        return tuple(part for part in (*self.parts, self.factor, self.order) if part is not None)

    @property
    def parts(self) -> tuple[Expression, Expression, Expression | None, Expression | None]:
        """Values, scale, zero and global scale."""
        return self.values, self.scale, self.zero, self.global_scale

    @property
    def scheme(self) -> Scheme:
        """The scheme that gives such parts."""
        scope, group = self._scope
        inputs = {"activations": self.activations, "activation_group": self.activation_group}
        given = {"weights": self.format, "scope": scope, "group": group, "zeros": self.zero is not None}
        return Scheme.model_validate({**given, **inputs})

    @property
    def _scope(self) -> tuple[Scope, int]:
        count = self.scale.shape[-1]
        if self.format in ("int4", "nvfp4", "mxfp4") or (self.format == "int8" and count > 1):
            return "group", self.shape[1] // count
        if self.scale.shape == (1, 1):
            return "tensor", 0
        return ("channel", 0) if self.scale.shape == (self.shape[0], 1) else ("block", 0)

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        low, high = box[0]
        first = low // BLOCK * BLOCK  # blocks are read whole
        last = min(-(-high // BLOCK) * BLOCK, self.shape[0])
        values, scale, zero, global_scale = (
            None if part is None else self._read_rows(part, source, first, last) for part in self.parts
        )
        assert values is not None
        assert scale is not None
        wide = dequantize(values, scale, zero, global_scale, self.format)
        if self.order is not None:
            wide = torch.empty_like(wide).index_copy_(1, self.order.read(source), wide)
        if self.factor is not None:
            wide *= self.factor.read(source).float()
        out.copy_(wide[low - first : high - first, box[1][0] : box[1][1]].to(self.to))

    def _read_rows(self, part: Expression, source: TensorSource, low: int, high: int) -> Tensor:
        """What rows `low` to `high` of the weight need of a part."""
        rows = part.shape[:1]
        if not rows or rows == (1,):
            return part.read(source)
        if rows != self.shape[:1]:
            low, high = low // BLOCK, -(-high // BLOCK)
        return part.read(source, ((low, high), (0, part.shape[1])))


def stored(expression: Expression) -> Dequantized | None:
    """The stored parts that `expression` is made of without arithmetic, or None where it is of anything else.

    Weights one below the other, or some rows of one, are so of their parts, where these may be taken apart.
    """
    if isinstance(expression, Dequantized):
        return expression
    if isinstance(expression, Cast):
        inner = stored(expression.x)
        return None if inner is None else replace(inner, to=expression.to)
    if isinstance(expression, Concat) and expression.dim == 0:
        found = [inner for inner in map(stored, expression.parts) if inner is not None]
        return _one_below_the_other(found) if len(found) == len(expression.parts) else None
    if isinstance(expression, Slice) and expression.dim == 0:
        inner = stored(expression.x)
        return None if inner is None else _some_rows(inner, expression.start, expression.stop)
    return None


def why_apart(weights: Sequence[Dequantized]) -> str | None:
    """Why weights cannot become one, one below the other, without being quantized anew; None where they can."""
    first = weights[0]
    if any(_kind(one) != _kind(first) for one in weights):
        return "they are stored in different formats"
    if any(one.input_scale != first.input_scale or one.global_scale != first.global_scale for one in weights):
        return "they have scales of their own for their inputs or groups"
    if any(one.factor != first.factor or one.order != first.order for one in weights):
        return "they take their inputs scaled, or in an order, of their own"
    if first.scheme.scope == "block" and any(one.shape[0] % BLOCK for one in weights[:-1]):
        return f"their blocks of {BLOCK} would not line up"
    return None


def _kind(weight: Dequantized) -> tuple[object, ...]:
    """What must be equal; that one number scales a whole weight is one scale for each of its rows."""
    scope = "channel" if weight.scheme.scope == "tensor" else weight.scheme.scope
    return weight.scheme.model_copy(update={"scope": scope}), weight.to, weight.scale.dtype


def _one_below_the_other(weights: Sequence[Dequantized]) -> Dequantized | None:
    if why_apart(weights) is not None:
        return None

    def joined(parts: list[Expression]) -> Expression:
        return Concat(tuple(parts), 0)

    zeros = [one.zero for one in weights if one.zero is not None]
    return replace(
        weights[0],
        values=joined([one.values for one in weights]),
        scale=joined([_by_row(one) for one in weights]),
        zero=joined(zeros) if zeros else None,
    )


def _by_row(weight: Dequantized) -> Expression:
    """The scale with a number for each row where one is for all of them."""
    rows = weight.shape[0]
    return Expand(weight.scale, (rows, 1)) if weight.scheme.scope == "tensor" else weight.scale


def _some_rows(weight: Dequantized, start: int, stop: int) -> Dequantized | None:
    each = BLOCK if weight.scheme.scope == "block" else 1
    if start % each or (stop % each and stop != weight.shape[0]):
        return None

    def rows(part: Expression, height: int) -> Expression:
        return part if part.shape[0] == 1 < weight.shape[0] else Slice(part, 0, start // height, -(-stop // height))

    return replace(
        weight,
        values=rows(weight.values, 1),
        scale=rows(weight.scale, each),
        zero=None if weight.zero is None else rows(weight.zero, 1),
    )

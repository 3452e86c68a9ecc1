"""Weights of experts that a checkpoint stores quantized, as operators take them: a matrix for each expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from autodeploy.quantization.formats import BLOCK
from autodeploy.weights.dequantized import Dequantized, stored, why_apart
from autodeploy.weights.expression import Cast, Expression
from autodeploy.weights.layout import Concat, Expand, Permute, Reshape, Stack

SWAPPED = (0, 2, 1)


@dataclass(frozen=True)
class StoredExperts:
    """The parts of E weights `[N, K]` along a first dimension, as `autodeploy.quantization.formats` lays out each.

    What inputs are to be quantized to is not kept: they stay as they are.
    """

    values: Expression
    scale: Expression
    zero: Expression | None
    format: str

    @property
    def parts(self) -> dict[str, Expression]:
        """Those that there are, by their names."""
        held = {"values": self.values, "scale": self.scale, "zero": self.zero}
        return {name: one for name, one in held.items() if one is not None}

    def each(self, change: Callable[[Expression], Expression]) -> StoredExperts:
        """With every part changed."""
        zero = None if self.zero is None else change(self.zero)
        return replace(self, values=change(self.values), scale=change(self.scale), zero=zero)


def stored_experts(expression: Expression, *, transposed: bool = False) -> StoredExperts | None:
    """The stored parts of the weights `[E, N, K]`, or `[E, K, N]` when `transposed`, that `expression` stands for.

    None where they are not stored so, or something is done to their numbers or inputs that a product by them lacks.
    """
    if isinstance(expression, Cast):
        return stored_experts(expression.x, transposed=transposed)
    if isinstance(expression, Permute) and expression.dims == SWAPPED:
        return stored_experts(expression.x, transposed=not transposed)
    if transposed or len(expression.shape) != 3:
        return None
    if isinstance(expression, Reshape):
        return _parted(stored(expression.x), expression.shape)
    if isinstance(expression, Stack) and expression.dim == 0:
        return _stacked([stored(one) for one in expression.parts])
    if isinstance(expression, Concat) and expression.dim == 1:
        return _one_below_the_other([stored_experts(one) for one in expression.parts])
    return None


def _is_plain(weight: Dequantized) -> bool:
    """Whether its numbers are values and scales alone, and its inputs are taken as they are."""
    return weight.global_scale is None and weight.factor is None and weight.order is None


def _parted(weight: Dequantized | None, shape: tuple[int, ...]) -> StoredExperts | None:
    """All rows of all experts in one weight."""
    count, rows, columns = shape
    if weight is None or not _is_plain(weight) or weight.shape != (count * rows, columns):
        return None
    if weight.scale.shape[0] != count * rows:
        return None
    whole = StoredExperts(weight.values, weight.scale, weight.zero, weight.format)
    return whole.each(lambda part: Reshape(part, (count, rows, part.shape[1])))


def _stacked(weights: Sequence[Dequantized | None]) -> StoredExperts | None:
    """A weight for each expert."""
    found = [replace(one, activations="none", activation_group=0, input_scale=None) for one in weights if one]
    if len(found) < len(weights) or not all(map(_is_plain, found)) or why_apart(found) is not None:
        return None
    zeros = [one.zero for one in found if one.zero is not None]
    return StoredExperts(
        Stack(tuple(one.values for one in found), 0),
        Stack(tuple(map(_by_row, found)), 0),
        Stack(tuple(zeros), 0) if zeros else None,
        found[0].format,
    )


def _by_row(weight: Dequantized) -> Expression:
    one_for_all = weight.scale.shape[0] == 1 < weight.shape[0]
    return Expand(weight.scale, (weight.shape[0], 1)) if one_for_all and weight.scale.shape[1] == 1 else weight.scale


def _one_below_the_other(experts: Sequence[StoredExperts | None]) -> StoredExperts | None:
    """The rows of several weights for each expert, such as a gate's and what it gates."""
    found = [one for one in experts if one is not None]
    if len(found) < len(experts) or any(_kind(one) != _kind(found[0]) for one in found):
        return None
    lines = found[0].scale.shape[1]
    if lines != found[0].values.shape[1] and any(one.values.shape[1] % BLOCK for one in found[:-1]):
        return None
    zeros = [one.zero for one in found if one.zero is not None]
    return StoredExperts(
        Concat(tuple(one.values for one in found), 1),
        Concat(tuple(one.scale for one in found), 1),
        Concat(tuple(zeros), 1) if zeros else None,
        found[0].format,
    )


def _kind(experts: StoredExperts) -> tuple[object, ...]:
    """What must be equal of weights to stand one below the other."""
    zero = None if experts.zero is None else experts.zero.dtype
    return experts.format, experts.values.shape[2], experts.scale.shape[2], experts.scale.dtype, zero

"""Einsums of two operands: what becomes of each dimension, and the call that computes the same."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.fx import Node

from autodeploy.graph.nodes import insert_call, value

aten = torch.ops.aten


@dataclass(frozen=True)
class Einsum:
    """An einsum of `first` and `second`, whose dimensions `left` and `right` name, as `out` names those of the result.

    No letter is repeated in an operand, and none is of one operand alone and summed.
    """

    first: Node
    second: Node
    left: str
    right: str
    out: str

    @property
    def shared(self) -> str:
        """Dimensions of both operands that the result keeps, in its order."""
        return "".join(letter for letter in self.out if letter in self.left and letter in self.right)

    @property
    def rows(self) -> str:
        """Dimensions of the first operand alone, in the order of the result."""
        return "".join(letter for letter in self.out if letter not in self.right)

    @property
    def columns(self) -> str:
        """Dimensions of the second operand alone, in the order of the result."""
        return "".join(letter for letter in self.out if letter not in self.left)

    @property
    def summed(self) -> str:
        """Dimensions of both operands that the result does not have, in the order of the first."""
        return "".join(letter for letter in self.left if letter not in self.out)

    def swapped(self) -> Einsum:
        """The same with its operands in the other order."""
        return Einsum(self.second, self.first, self.right, self.left, self.out)


def read_einsum(node: Node) -> Einsum | None:
    """What the einsum `node` does; None for other than two operands, a diagonal, a sum of one operand, a broadcast."""
    operands = cast("Sequence[Node]", node.args[1])
    if len(operands) != 2:
        return None
    first, second = operands
    left, right, out = _letters(str(node.args[0]), [value(operand).dim() for operand in operands])
    repeats = any(len(set(name)) < len(name) for name in (left, right, out))
    if repeats or not set(left) ^ set(right) <= set(out):
        return None
    sizes, others = (
        dict(zip(name, map(str, value(one).shape), strict=True)) for name, one in ((left, first), (right, second))
    )
    if any(sizes[letter] != others[letter] for letter in set(left) & set(right)):
        return None
    return Einsum(first, second, left, right, out)


def _letters(equation: str, ranks: Sequence[int]) -> list[str]:
    """The letters of each operand and of the result, with those that `...` and a result without a name stand for."""
    given, arrow, out = equation.replace(" ", "").partition("->")
    operands = given.split(",")
    if not arrow:
        every = given.replace(",", "").replace(".", "")
        out = "..." * ("..." in given) + "".join(sorted(letter for letter in every if every.count(letter) == 1))
    widths = [rank - len(name.replace("...", "")) for name, rank in zip(operands, ranks, strict=True)]
    free = [letter for letter in string.ascii_letters if letter not in equation][: max(widths)]
    dots = ["".join(free[len(free) - width :]) for width in (*widths, len(free))]
    return [name.replace("...", letters) for name, letters in zip((*operands, out), dots, strict=True)]


def as_product(einsum: Einsum) -> Node | None:
    """A product of numbers, summed where the einsum sums; None where a matmul is needed.

    Calls are inserted at the graph's insertion point.
    """
    if einsum.summed and einsum.rows and einsum.columns:
        return None
    if len(einsum.right) > len(einsum.left):
        einsum = einsum.swapped()
    every = einsum.left + einsum.columns
    product = insert_call(
        einsum.first.graph,
        aten.mul.Tensor,
        (_spread(einsum.first, einsum.left, every), _spread(einsum.second, einsum.right, every)),
    )
    if einsum.summed:
        dims = [every.index(letter) for letter in einsum.summed]
        product = insert_call(product.graph, aten.sum.dim_IntList, (product, dims))
    return reordered(product, "".join(letter for letter in every if letter in einsum.out), einsum.out)


def _spread(operand: Node, names: str, every: str) -> Node:
    """`operand` with its dimensions in the order of `every`, and one of size 1 for each that it lacks."""
    operand = reordered(operand, names, "".join(letter for letter in every if letter in names))
    for dim, letter in enumerate(every):
        if letter not in names:
            operand = insert_call(operand.graph, aten.unsqueeze.default, (operand, dim))
    return operand


def as_matmul(einsum: Einsum) -> Node | None:
    """A matmul of reordered operands, with its result reordered; None unless it has one dimension of each kind.

    Calls are inserted at the graph's insertion point.
    """
    shared, rows, columns, summed = einsum.shared, einsum.rows, einsum.columns, einsum.summed
    if not len(rows) == len(columns) == len(summed) == 1:
        return None
    first = reordered(einsum.first, einsum.left, shared + rows + summed)
    second = reordered(einsum.second, einsum.right, shared + summed + columns)
    return reordered(
        insert_call(first.graph, aten.matmul.default, (first, second)), shared + rows + columns, einsum.out
    )


def reordered(operand: Node, names: str, order: str) -> Node:
    """`operand`, whose dimensions are `names`, with them in another order."""
    dims = [names.index(letter) for letter in order]
    if dims == sorted(dims):
        return operand
    return insert_call(operand.graph, aten.permute.default, (operand, dims))

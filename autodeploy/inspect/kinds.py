"""What sort of operator a call is: what views colour by, and what summaries add up."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

import torch
from torch.fx import Node

from autodeploy.graph.aliases import aliased
from autodeploy.graph.text import operator_name


class Kind(StrEnum):
    """A sort of operator, in the order of legends."""

    MATMUL = "matmul"
    ATTENTION = "attention"
    EXPERTS = "experts"
    NORM = "norm"
    ACTIVATION = "activation"
    ROTARY = "rotary"
    QUANTIZE = "quantize"
    ARITHMETIC = "arithmetic"
    LOOKUP = "lookup"
    MOVEMENT = "movement"
    COLLECTIVE = "collective"
    SIZE = "size"
    OTHER = "other"
    INPUT = "input"
    OUTPUT = "output"


# By a word of an operator's name; the first that fits wins, so that what a fused operator mostly does comes first.
_BY_WORD: Mapping[str, Kind] = MappingProxyType(
    {
        "expert": Kind.EXPERTS,
        "attention": Kind.ATTENTION,
        "linear": Kind.MATMUL,
        "conv": Kind.MATMUL,
        "addmm": Kind.MATMUL,
        "matmul": Kind.MATMUL,
        "einsum": Kind.MATMUL,
        "bmm": Kind.MATMUL,
        "mm": Kind.MATMUL,
        "norm": Kind.NORM,
        "rope": Kind.ROTARY,
        "rotary": Kind.ROTARY,
        "activat": Kind.ACTIVATION,
        "quantize": Kind.QUANTIZE,
        "silu": Kind.ACTIVATION,
        "gelu": Kind.ACTIVATION,
        "relu": Kind.ACTIVATION,
        "sigmoid": Kind.ACTIVATION,
        "tanh": Kind.ACTIVATION,
        "softmax": Kind.ACTIVATION,
        "embedding": Kind.LOOKUP,
        "index": Kind.LOOKUP,
        "gather": Kind.LOOKUP,
        "sym_size": Kind.SIZE,
        "mean": Kind.ARITHMETIC,
        "sum": Kind.ARITHMETIC,
        "cat": Kind.MOVEMENT,
        "stack": Kind.MOVEMENT,
        "split": Kind.MOVEMENT,
        "copy": Kind.MOVEMENT,
        "clone": Kind.MOVEMENT,
        "select": Kind.MOVEMENT,
        "slice": Kind.MOVEMENT,
        "reshape": Kind.MOVEMENT,
        "unsqueeze": Kind.MOVEMENT,
    }
)
_CASTS = ("to", "_to_copy", "type_as")
_COLLECTIVES = ("_c10d_functional", "c10d", "symm_mem")


def kind_of(node: Node) -> Kind:
    """The sort of operator that `node` calls; of a plugin's, what its name says."""
    if node.op in ("placeholder", "output"):
        return Kind.INPUT if node.op == "placeholder" else Kind.OUTPUT
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return Kind.SIZE if isinstance(node.meta.get("val"), (int, torch.SymInt)) else Kind.OTHER
    if target.namespace in _COLLECTIVES:
        return Kind.COLLECTIVE
    name = operator_name(target)
    named = next((kind for word, kind in _BY_WORD.items() if word in name), None)
    if named is not None:
        return named
    if torch.Tag.pointwise in target.tags:
        return Kind.ARITHMETIC
    return Kind.MOVEMENT if name in _CASTS or ("val" in node.meta and aliased(node)) else Kind.OTHER

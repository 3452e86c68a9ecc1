"""Random numbers to time a layer with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from autodeploy.graph.nodes import form
from autodeploy.tuning.attention_operands import random_step
from autodeploy.tuning.choices import Site
from autodeploy.tuning.layer import Layer
from autodeploy.tuning.matmul import Matmul
from autodeploy.tuning.measure import CACHE_BYTES
from autodeploy.tuning.operands import Operands, random_operands

CONTEXT = 256
"""Keys of each row. With long contexts attention takes most of a layer, and its time alone tells what is fast."""
STORED = ("get_attr", "placeholder")

Given = dict[Node, Any]


def num_copies(layer: Layer, most: int) -> int:
    """How many layers leave nothing of the first one's weights in the cache when the last was run; at most `most`."""
    return min(-(-CACHE_BYTES // max(layer.weight_bytes, 1)), most)


def random_given(layer: Layer, rows: int, copies: int, device: str = "cuda") -> list[Given]:
    """What a layer is given in a decode step, for as many layers: each has weights and pages of its own."""
    shared = {node: _moving(node, rows, device) for node in layer.given if node.op not in STORED}
    given = [dict(shared) for _ in range(copies)]
    for call, site in layer.sites.items():
        for one, operands in zip(given, _operands(site, rows, copies, device), strict=True):
            _give(call, operands, one)
    rest = [node for node in layer.given if node not in given[0]]
    for one in given:
        one.update({node: _near_one(node, rows, device) for node in rest})
    return given


def _operands(site: Site, rows: int, copies: int, device: str) -> Sequence[Operands]:
    if isinstance(site, Matmul):
        return random_operands(site, rows, copies, device)
    return random_step(site, rows, CONTEXT, copies, device)


def _give(call: Node, operands: Operands, given: Given) -> None:
    """Weights, pages and tables that the call reads; what another site has been given of them stays."""
    for argument, operand in zip(call.args, operands, strict=False):
        if isinstance(argument, Node) and argument.op in STORED:
            given.setdefault(argument, operand)


def _moving(node: Node, rows: int, device: str) -> Tensor | int:
    """What other layers made, or the number of rows."""
    if node.target is torch.ops.aten.sym_size.int:
        return rows
    dtype, shape = form(node)
    return torch.randn(_sizes(shape, rows), device=device).to(dtype)


def _near_one(node: Node, rows: int, device: str) -> Tensor:
    """The weight of a norm, or a scale."""
    dtype, shape = form(node)
    return (1.0 + 0.1 * torch.randn(_sizes(shape, rows), device=device)).to(dtype)


def _sizes(shape: Sequence[int | None], rows: int) -> list[int]:
    return [rows if size is None else size for size in shape]

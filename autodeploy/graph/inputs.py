"""Adding inputs to a graph: placeholders of step data and `get_attr` nodes of new weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from autodeploy.graph.attributes import set_attribute
from autodeploy.graph.nodes import fake_mode_of

_ANY_SIZE = 24  # the example size of a dynamic dimension; no pass may rely on it


def insert_weight(gm: GraphModule, name: str, like: Tensor) -> Node:
    """A `get_attr` node, at the insertion point, of a weight that a pass added to the plan, shaped as `like`."""
    set_attribute(gm, name, torch.empty(tuple(like.shape), dtype=like.dtype, device="meta"))
    node = gm.graph.get_attr(name)
    node.meta["val"] = like
    return node


def add_placeholder(gm: GraphModule, name: str, shape: tuple[int | None, ...], dtype: torch.dtype) -> Node:
    """Append an input of `shape`, where None is a dynamic size, after the graph's other inputs."""
    from torch.fx.experimental.symbolic_shapes import DimDynamic, StatelessSymbolicContext  # half a second

    example = torch.empty([_ANY_SIZE if size is None else size for size in shape], dtype=dtype, device="meta")
    dynamic = [DimDynamic.DYNAMIC if size is None else DimDynamic.STATIC for size in shape]
    mode = fake_mode_of(gm.graph)
    last = gm.graph.find_nodes(op="placeholder")[-1]
    with gm.graph.inserting_after(last):
        node = gm.graph.placeholder(name)
    node.meta["val"] = mode.from_tensor(example, symbolic_context=StatelessSymbolicContext(dynamic))
    return node

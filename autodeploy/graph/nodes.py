"""Reading and writing `torch.fx` nodes together with the shapes and dtypes in `meta["val"]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.node import Argument, map_arg

Target = Callable[..., Any]


def value(node: Node) -> Tensor:
    """The fake tensor that stands for the node's result: its shape and dtype, no data."""
    result = node.meta["val"]
    assert isinstance(result, Tensor), f"{node.name} is not a tensor"
    return result


def form(node: Node) -> tuple[torch.dtype, tuple[int | None, ...]]:
    """The dtype of a node's result and its sizes, None for those that vary: a loaded graph has them as text only."""
    if "val" in node.meta:
        result = value(node)
        return result.dtype, tuple(size if isinstance(size, int) else None for size in result.shape)
    name, _, sizes = str(node.meta["val_text"]).rstrip("]").partition("[")
    dtype: torch.dtype = getattr(torch, name)
    return dtype, tuple(int(size) if size.isdigit() else None for size in sizes.split(", ") if size)


def module_of(node: Node) -> str:
    """The class of the module whose code made `node`."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][1]).rpartition(".")[2] if stack else "the model"


def calls_of(graph: Graph, *targets: Target) -> list[Node]:
    """The nodes that call one of `targets`, in graph order."""
    return [node for node in graph.nodes if node.op == "call_function" and node.target in targets]


def is_call(argument: object, *targets: Target) -> TypeGuard[Node]:
    """Whether `argument` is a node that calls one of `targets`."""
    return isinstance(argument, Node) and argument.op == "call_function" and argument.target in targets


def fake_mode_of(graph: Graph) -> FakeTensorMode:
    """The fake-tensor mode that the graph's values belong to."""
    for node in graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if isinstance(mode, FakeTensorMode):
            return mode
    raise AssertionError("the graph has no fake values")


def insert_call(
    graph: Graph, target: Target, args: Iterable[Argument], kwargs: Mapping[str, Argument] | None = None
) -> Node:
    """Add a call at the graph's insertion point and infer its `meta["val"]` from those of its arguments."""
    node = graph.call_function(target, tuple(args), dict(kwargs or {}))
    infer(node, fake_mode_of(graph))
    return node


def call_arguments(target: Target, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split `values`, in the order of the operator's schema, into positional and keyword-only arguments."""
    if not isinstance(target, torch._ops.OpOverload):
        return tuple(values), {}
    named = list(zip(target._schema.arguments, values, strict=False))
    positional = tuple(given for parameter, given in named if not parameter.kwarg_only)
    return positional, {parameter.name: given for parameter, given in named if parameter.kwarg_only}


def infer(node: Node, mode: FakeTensorMode) -> None:
    """Compute `meta["val"]` of a call from those of its arguments."""
    assert callable(node.target)
    args = map_arg(node.args, lambda argument: argument.meta["val"])
    kwargs = map_arg(node.kwargs, lambda argument: argument.meta["val"])
    with mode, torch.no_grad():
        node.meta["val"] = node.target(*args, **kwargs)


def infer_from(first: Node) -> None:
    """Compute `meta["val"]` of a call and of all that follow it anew."""
    mode, node = fake_mode_of(first.graph), first
    while node.op != "output":
        if node.op == "call_function":
            infer(node, mode)
        node = node.next


def arguments(node: Node) -> dict[str, Any]:
    """All arguments of a call by their name in the operator's schema, defaults included."""
    assert isinstance(node.target, torch._ops.OpOverload)
    named: dict[str, Any] = {}
    for position, parameter in enumerate(node.target._schema.arguments):
        if position < len(node.args):
            named[parameter.name] = node.args[position]
        elif parameter.name in node.kwargs:
            named[parameter.name] = node.kwargs[parameter.name]
        else:
            named[parameter.name] = parameter.default_value
    return named

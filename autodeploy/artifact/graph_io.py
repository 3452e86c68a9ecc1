"""A graph as data: JSON in, JSON out, and nothing of it is ever executed.

FX generates Python source from a graph, so every name that would reach that source is checked first: node names and
inputs are plain identifiers, weights are dotted names, operators come from an allow-list, and argument names from the
operator's schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from keyword import iskeyword
from types import MappingProxyType
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn
from torch.fx import Graph, GraphModule, Node

from autodeploy.artifact.operators import check_arguments, find_target, target_name
from autodeploy.artifact.values import decode, describe, encode
from autodeploy.errors import ArtifactError, InvariantError, nearest
from autodeploy.graph.attributes import set_attribute

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DOTTED = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


class SavedNode(BaseModel):
    """One node. `val` describes the shape and dtype it had; `backend` is the kernel chosen for it, if one was."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    op: str
    target: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    val: str | None = None
    backend: str | None = None


def graph_to_data(gm: GraphModule) -> list[dict[str, Any]]:
    """Write the nodes of `gm`, in order; InvariantError for a node that an artifact cannot hold."""
    return [_save_node(node).model_dump(exclude_defaults=True) for node in gm.graph.nodes]


def graph_from_data(
    data: object, weights: Mapping[str, torch.Tensor], plugins: Mapping[str, str] = MappingProxyType({})
) -> GraphModule:
    """Rebuild a graph. Its weights become meta tensors of the shapes and dtypes of `weights`.

    Each node's `meta` has `backend`, and `val_text` (the text of the `val` it had); weights have their `val`. Raises
    ArtifactError for anything that the writer does not write, and for operators outside the allow-list; `plugins` are
    those that the graph needs, with their distributions.
    """
    if not isinstance(data, list):
        raise ArtifactError("graph.json: a graph must be a list of nodes")
    graph, root = Graph(), nn.Module()
    nodes: dict[str, Node] = {}
    for entry in data:
        saved = _parse(entry)
        if saved.op == "get_attr":
            _add_weight(root, saved, weights)
        nodes[saved.name] = _load_node(graph, saved, nodes, plugins)
        if saved.op == "get_attr":
            nodes[saved.name].meta["val"] = weights[saved.target].to("meta")
    if [node.op for node in graph.nodes if node.op == "output"] != ["output"] or saved.op != "output":
        raise ArtifactError("graph.json: a graph must end in its one output")
    graph.lint()
    return GraphModule(root, graph)


def _save_node(node: Node) -> SavedNode:
    if node.op not in ("placeholder", "get_attr", "call_function", "output"):
        raise InvariantError(f"node {node.name!r} is a {node.op}, which an artifact cannot hold")
    target = target_name(node.target, node.name) if node.op == "call_function" else str(node.target)
    return SavedNode(
        name=node.name,
        op=node.op,
        target=target,
        args=[encode(arg, node.name) for arg in node.args],
        kwargs={name: encode(arg, node.name) for name, arg in node.kwargs.items()},
        val=describe(node.meta.get("val")),
        backend=node.meta.get("backend"),
    )


def _parse(entry: object) -> SavedNode:
    try:
        saved = SavedNode.model_validate(entry)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ArtifactError(f"graph.json: a node is not valid at {where!r}: {problem['msg']}") from error
    _check_identifier(saved.name, "node name")
    return saved


def _load_node(graph: Graph, saved: SavedNode, nodes: Mapping[str, Node], plugins: Mapping[str, str]) -> Node:
    args = tuple(decode(arg, nodes, saved.name) for arg in saved.args)
    kwargs = {name: decode(arg, nodes, saved.name) for name, arg in saved.kwargs.items()}
    target: Any = saved.target
    if saved.op == "call_function":
        target = find_target(saved.target, plugins, saved.name)
        check_arguments(target, args, kwargs, saved.name)
    else:
        _check_plain(saved)
    node = graph.create_node(saved.op, target, args, kwargs, name=saved.name)
    if node.name != saved.name:
        raise ArtifactError(f"graph.json: the node name {saved.name[:40]!r} is taken")
    node.meta.update({key: text for key, text in (("backend", saved.backend), ("val_text", saved.val)) if text})
    return node


def _check_plain(saved: SavedNode) -> None:
    """Nodes that call nothing: their targets are names, and only an output has an argument."""
    if saved.op == "placeholder":
        _check_identifier(saved.target, "input name")
    elif saved.op == "get_attr":
        if not DOTTED.fullmatch(saved.target):
            raise ArtifactError(f"graph.json: {saved.target[:40]!r} is not the name of a weight")
    elif saved.op != "output" or saved.target != "output":
        raise ArtifactError(f"graph.json: node {saved.name!r} is of a kind that is refused: {saved.op[:40]!r}")
    if len(saved.args) != (saved.op == "output") or saved.kwargs:
        raise ArtifactError(f"graph.json: node {saved.name!r} has arguments that a {saved.op} does not take")


def _check_identifier(text: str, what: str) -> None:
    if not IDENTIFIER.fullmatch(text) or iskeyword(text):
        raise ArtifactError(f"graph.json: {text[:40]!r} is not a valid {what}")


def _add_weight(root: nn.Module, saved: SavedNode, weights: Mapping[str, torch.Tensor]) -> None:
    if saved.target not in weights:
        raise ArtifactError(f"graph.json reads the weight {saved.target[:60]!r}; {nearest(saved.target, weights)}")
    weight = weights[saved.target]
    empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")  # empty_like would import sympy, for a second
    try:
        set_attribute(root, saved.target, nn.Parameter(empty, requires_grad=False))
    except (AttributeError, KeyError) as error:  # one weight's name is the path to another, or a module's own attribute
        raise ArtifactError(f"graph.json: {saved.target[:60]!r} is not the name of a weight") from error

"""The arguments of graph nodes as JSON, and back. Every kind is spelled out; anything else is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node

from autodeploy.errors import ArtifactError, InvariantError

TORCH_NAMES: Mapping[str, type] = {
    "dtype": torch.dtype,
    "layout": torch.layout,
    "memory_format": torch.memory_format,
}
"""Constants of the torch module, by the tag they are written under."""


def encode(value: object, where: str) -> Any:
    """Write an argument as JSON; InvariantError, naming the node `where`, for a kind that cannot be saved.

    Numbers, strings, booleans, None and lists are themselves; everything else is an object with one tag.
    """
    if isinstance(value, Node):
        return {"node": value.name}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list):
        return [encode(item, where) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item, where) for item in value]}
    if isinstance(value, slice):
        return {"slice": [encode(item, where) for item in (value.start, value.stop, value.step)]}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for tag, kind in TORCH_NAMES.items():
        if isinstance(value, kind):
            return {tag: str(value).removeprefix("torch.")}
    raise InvariantError(f"node {where!r} holds a {type(value).__name__}, which an artifact cannot hold")


def decode(value: Any, nodes: Mapping[str, Node], where: str) -> Any:
    """Read an argument back; ArtifactError, naming the node `where`, for anything `encode` does not write."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [decode(item, nodes, where) for item in value]
    if isinstance(value, dict) and len(value) == 1:
        tag, inner = next(iter(value.items()))
        if tag == "node" and isinstance(inner, str) and inner in nodes:
            return nodes[inner]
        if tag in ("tuple", "slice") and isinstance(inner, list):
            items = [decode(item, nodes, where) for item in inner]
            return tuple(items) if tag == "tuple" else _slice(items, where)
        if isinstance(inner, str):
            return _constant(tag, inner, where)
    raise ArtifactError(f"graph.json: node {where!r} has an argument that is not of a known kind: {str(value)[:60]}")


def _slice(items: list[Any], where: str) -> slice:
    if len(items) != 3:
        raise ArtifactError(f"graph.json: node {where!r} has a slice of {len(items)} parts, not 3")
    return slice(*items)


def _constant(tag: str, text: str, where: str) -> Any:
    if tag == "float" and text in ("inf", "-inf", "nan"):
        return float(text)
    if tag == "device":
        try:
            return torch.device(text)
        except RuntimeError as error:
            raise ArtifactError(f"graph.json: node {where!r} names no device: {text[:40]!r}") from error
    if tag in TORCH_NAMES and isinstance(vars(torch).get(text), TORCH_NAMES[tag]):
        return vars(torch)[text]
    raise ArtifactError(f"graph.json: node {where!r} has a {tag!r} that does not exist: {text[:40]!r}")


def describe(value: object) -> str | None:
    """A node's `meta["val"]` as text, for people and tools that compare shapes: `bfloat16[1, s0, 576]`."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(str(describe(item)) for item in value)})"
    return None if value is None else str(value)

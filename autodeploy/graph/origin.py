"""Where in the model's code a node comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

import torch
from torch.fx import Graph, Node

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*(?:\n +(?P<code>[^\n]+))?')
_TORCH = str(Path(torch.__file__).parent)
_KEYS = ("stack_trace", "nn_module_stack")


def source_line(node: Node) -> str | None:
    """Such as "modeling_llama.py:66 `return self.weight * x.to(dtype)`"; None where tracing did not record it.

    The innermost line that is not PyTorch's own.
    """
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    own = [frame for frame in frames if not frame["file"].startswith(_TORCH)]
    if not own:
        return None
    frame = own[-1]
    code = f" `{frame['code']}`" if frame["code"] else ""
    return f"{Path(frame['file']).name}:{frame['line']}{code}"


def module_path(node: Node) -> str | None:
    """The module that `node` belongs to, such as `model.layers.0.mlp`: as traced, or else by a weight it reads."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if stack:
        return str(stack[-1][0]) or None
    weights = [str(one.target) for one in node.all_input_nodes if one.op == "get_attr"]
    return weights[0].rpartition(".")[0] if weights else None


def common_module(nodes: Iterable[Node]) -> str | None:
    """The innermost module that all of `nodes` whose module is known belong to."""
    paths = [path.split(".") for path in map(module_path, nodes) if path]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in shared) or None


def inherit_origin(node: Node, like: Node) -> None:
    """Say that `node` came from where `like` did, as far as nothing else is known."""
    for key in _KEYS:
        if like.meta.get(key) and not node.meta.get(key):
            node.meta[key] = like.meta[key]


def spread_origins(graph: Graph) -> None:
    """Give each call that a pass inserted the origin of its first user, or else of its first input, that has one."""
    for node in reversed(graph.nodes):
        _inherit_from_any(node, node.users)
    for node in graph.nodes:
        _inherit_from_any(node, node.all_input_nodes)


def _inherit_from_any(node: Node, others: Iterable[Node]) -> None:
    if node.op != "call_function" or node.meta.get("stack_trace"):
        return
    known = next((other for other in others if other.meta.get("stack_trace")), None)
    if known is not None:
        inherit_origin(node, known)

"""Which results share memory, and which memory a call writes: what no rewrite may move a read across."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator

import torch
from torch.fx import Graph, Node

from autodeploy.graph.nodes import form

aten = torch.ops.aten

# Operators that may return their input, or a view of it, though their schemas do not say so.
_MAY_RETURN_INPUT = frozenset(
    {
        aten.dropout.default,
        aten.feature_dropout.default,
        aten.type_as.default,
        aten.sum_to_size.default,
        aten.broadcast_tensors.default,
        aten.meshgrid.default,
        aten.meshgrid.indexing,
        aten.atleast_1d.default,
        aten.atleast_2d.default,
        aten.atleast_3d.default,
    }
)
_CASTS = (aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.type_as.default, aten.contiguous.default)


def writes(node: Node) -> list[Node]:
    """The arguments whose memory a call writes."""
    return [] if node.target is aten.detach_.default else list(_arguments(node, write=True))  # it forgets a gradient


def written(graph: Graph) -> frozenset[Node]:
    """Every node whose memory some call of the graph writes, through whichever alias. Linear in the graph."""
    return _sharing(argument for node in graph.nodes for argument in writes(node))


def why_kept(source: Node, call: Node) -> str | None:
    """None where nothing needs what `source` holds once `call` has read it, so that the call may write over it.

    Otherwise the reason: it outlives the step, the call reads it in two places, or something later reads it, each
    through whichever alias.
    """
    shared = _sharing([source])
    given = next((node for node in shared if node.op != "call_function"), None)
    if given is not None:
        return f"{source.name} is memory of {given.name}, which outlives the step"
    if sum(isinstance(argument, Node) and argument in shared for argument in call.args) > 1:
        return f"{call.name} reads {source.name} twice"
    late = min((user for node in shared for user in node.users if call < user), default=None)
    return None if late is None else f"{late.name} reads {source.name} later"


def _sharing(nodes: Iterable[Node]) -> frozenset[Node]:
    """The nodes that may share memory with some of `nodes`, themselves included."""
    found: set[Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(aliased(node))
            pending.extend(user for user in node.users if node in aliased(user))
    return frozenset(found)


def aliased(node: Node) -> list[Node]:
    """The arguments that the result of a call may share memory with."""
    if node.op != "call_function":
        return []
    if _converts(node):
        return []
    sources = node.all_input_nodes
    if node.target is aten.einsum.default:  # of one operand it may be a transpose
        return sources if len(sources) == 1 else []
    if node.target is operator.getitem:  # one of several results: of a view, or with memory of its own
        return sources if aliased(sources[0]) else []
    if node.target in _MAY_RETURN_INPUT:
        return sources
    return list(_arguments(node, write=None))


def is_pure(node: Node) -> bool:
    """Whether a node gives the same whenever it runs, and does nothing else; inputs of the graph do not count."""
    if node.op == "get_attr":
        return True
    if node.op != "call_function" or node.is_impure() or isinstance(node.target, torch._ops.HigherOrderOperator):
        return False
    return torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


def _converts(node: Node) -> bool:
    """Whether a cast makes a copy for sure: its result is of another dtype."""
    source = node.args[0] if node.args else None
    return node.target in _CASTS and isinstance(source, Node) and form(source)[0] != form(node)[0]


def _arguments(node: Node, write: bool | None) -> Iterator[Node]:
    """The arguments that the schema marks as aliases; with `write`, only those that are written."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    for position, parameter in enumerate(node.target._schema.arguments):
        if parameter.alias_info is None or (write and not parameter.alias_info.is_write):
            continue
        given = node.args[position] if position < len(node.args) else node.kwargs.get(parameter.name)
        yield from (one for one in (given if isinstance(given, (list, tuple)) else [given]) if isinstance(one, Node))

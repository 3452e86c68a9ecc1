"""What each tensor of a graph holds while calls write into it; the bookkeeping of `functionalize`."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from autodeploy.errors import UnsupportedError
from autodeploy.graph.aliases import aliased, writes
from autodeploy.graph.nodes import insert_call, value
from autodeploy.passes.views import View, views_of

aten = torch.ops.aten


@dataclass(frozen=True)
class _Alias:
    """A way to see a tensor: the node that allocated it, and the views that lead from the whole to this part.

    `views` is None for what may be a copy: it is read until the tensor is written, and no longer.
    """

    base: Node
    views: tuple[View, ...] | None = ()


class Memory:
    """The present value of every tensor that is written, and of every view of it."""

    def __init__(self, touched: Set[Node]) -> None:
        self._touched = touched
        self._aliases: dict[Node, _Alias] = {}
        self._num_writes: dict[Node, int] = {}
        self._values: dict[Node, tuple[int, Node]] = {}  # of an alias, and after how many writes it was that

    def visit(self, node: Node) -> None:
        """Let `node` read present values, and note what it allocates, views or writes; call it in graph order."""
        written, seen = writes(node), [source for source in aliased(node) if source in self._touched]
        with node.graph.inserting_before(node):
            if written:
                self._write(node, written)
                return
            node.args = map_arg(node.args, self._now)
            node.kwargs = map_arg(node.kwargs, self._now)
        if len(seen) > 1:
            raise UnsupportedError(f"{node.name} ({node.target}) may share memory with several tensors, one is written")
        if node in self._touched:
            self._note(node, self._through(node, self._aliases[seen[0]]) if seen else _Alias(node), node)

    def _through(self, node: Node, alias: _Alias) -> _Alias:
        views = views_of(node)
        return _Alias(alias.base, None if views is None or alias.views is None else (*alias.views, *views))

    def _note(self, node: Node, alias: _Alias, result: Node) -> None:
        self._aliases[node] = alias
        self._values[node] = (self._num_writes.setdefault(alias.base, 0), result)

    def _now(self, node: Node) -> Node:
        """The node that computes what `node` holds by now."""
        if node not in self._aliases:
            return node
        alias = self._aliases[node]
        num_writes, result = self._values[node]
        if num_writes < self._num_writes[alias.base]:
            if alias.views is None:
                raise UnsupportedError(f"{node.name} is read after a write into what it may be a copy of")
            result = self._whole(alias)[-1]
            self._note(node, alias, result)
        return result

    def _whole(self, alias: _Alias) -> list[Node]:
        """The present value of the whole tensor, and of it through one view more each time."""
        values = [self._values[alias.base][1]]
        for view in alias.views or ():
            values.append(view.of(values[-1]))
        return values

    def _write(self, node: Node, written: list[Node]) -> None:
        """Compute what the written part becomes, and with it the whole tensor."""
        target = written[0]
        alias = self._aliases[target]
        if alias.base.op != "call_function":
            raise UnsupportedError(f"{node.name} writes into {alias.base.target!r}, which is not the graph's own")
        if alias.views is None or node.args[:1] != tuple(written):
            raise UnsupportedError(f"{node.name} ({node.target}) does not say what it writes into, or into several")
        wholes = self._whole(alias)
        part = whole = self._computed(node, wholes[-1])
        for view, inside in zip(reversed(alias.views), reversed(wholes[:-1]), strict=True):
            whole = view.put(whole, inside)
        self._num_writes[alias.base] += 1
        self._note(alias.base, self._aliases[alias.base], whole)
        for seen in (target, node):
            self._note(seen, alias, whole if seen is alias.base else part)

    def _computed(self, node: Node, present: Node) -> Node:
        """What a call would write, as a value of the shape and dtype of what it writes into."""
        args: Any = map_arg(node.args[1:], self._now)
        kwargs: Any = map_arg(node.kwargs, self._now)
        if node.target in (aten.copy_.default, aten.fill_.Tensor):
            result: Node = args[0]
        elif node.target is aten.zero_.default:
            result = insert_call(node.graph, aten.zeros_like.default, (present,))
        else:
            result = insert_call(node.graph, _without_writing(node), (present, *args), kwargs)
        wanted = value(present)
        if value(result).dtype != wanted.dtype:
            result = insert_call(node.graph, aten.to.dtype, (result, wanted.dtype))
        if str(value(result).shape) != str(wanted.shape):
            result = insert_call(node.graph, aten.expand_as.default, (result, present))
        return result


def _without_writing(node: Node) -> torch._ops.OpOverload:
    """The operator that returns what the operator of `node` writes: `aten.add` for `aten.add_`."""
    assert isinstance(node.target, torch._ops.OpOverload)
    name, overload = node.target._schema.name.removeprefix("aten::"), node.target._overloadname
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    if packet is None or overload not in packet.overloads():
        raise UnsupportedError(f"{node.name} ({node.target}) writes into its arguments and has no form that does not")
    found: torch._ops.OpOverload = getattr(packet, overload)
    return found

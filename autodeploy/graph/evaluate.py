"""Computing what depends on sizes and positions alone, such as a mask, at any number of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.fx import Node
from torch.fx.node import map_aggregate, map_arg

from autodeploy.graph.nodes import is_call

aten = torch.ops.aten

POSITIONS = "position_ids"
"""The input that counts tokens from zero; every other input is data."""

_OTHER_SIZE = 2  # of dimensions that are not tokens, such as the batch
# They look at the shape of a tensor and not at its values.
_SHAPE_ONLY = (
    aten.ones_like.default,
    aten.zeros_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.new_full.default,
    aten.new_empty.default,
)
_NARROW = (torch.float16, torch.bfloat16)
_HUGE = 1 << 31  # bounds of slices that mean "to the end"


def why_unknown(node: Node, constants: Mapping[str, Tensor]) -> str | None:
    """None when `node` can be evaluated, or the reason: the input or the weight whose values decide about it."""
    for source in _sources(node):
        if source.op == "placeholder" and source.target != POSITIONS:
            return f"it depends on the values of {source.target}"
        if source.op == "get_attr" and source.target not in constants:
            return f"it depends on the weight {source.target}"
        if source.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(source.target, "tags", ()):
            return f"{source.name} is random"
    return None


def reads_data(node: Node) -> bool:
    """Whether the values of an input other than positions reach `node`."""
    return any(source.op == "placeholder" and source.target != POSITIONS for source in _sources(node))


def numbers_in(node: Node, constants: Mapping[str, Tensor]) -> set[int]:
    """The positive integers that `node` is computed from: arguments, and the sizes of tables."""
    found: set[int] = set()
    for source in _sources(node):
        if source.op == "get_attr" and source.target in constants:
            found.update(constants[str(source.target)].shape)
        map_aggregate((source.args, dict(source.kwargs)), lambda item: found.add(item) if type(item) is int else None)
    return {abs(number) for number in found if 0 < abs(number) < _HUGE}


class Evaluator:
    """Computes nodes on the CPU at `num_tokens` tokens, with positions that count from zero.

    `tokens` is a size in the graph that grows with the tokens; other dynamic sizes become 2. Where the graph computes
    in 16 bits, float32 is taken: a mask means the function that was rounded. `evaluate` raises whatever an operator
    raises for that number of tokens, such as an index past the end of a table.
    """

    def __init__(self, constants: Mapping[str, Tensor], tokens: int | SymInt, num_tokens: int) -> None:
        self._constants = constants
        symbols = tokens.node.expr.free_symbols if isinstance(tokens, SymInt) else ()
        self._symbols = dict.fromkeys(symbols, num_tokens)
        self._values: dict[Node, Any] = {}

    def evaluate(self, node: Node) -> Tensor:
        """The value of `node`, for which `why_unknown` gives no reason."""
        for source in reversed(list(_sources(node))):
            self._values.setdefault(source, self._compute(source))
        result: Tensor = self._values[node]
        return result

    def size(self, size: int | SymInt) -> int:
        """A size of the graph as a number."""
        if not isinstance(size, SymInt):
            return size
        expression = size.node.expr
        return int(expression.subs({one: self._symbols.get(one, _OTHER_SIZE) for one in expression.free_symbols}))

    def _compute(self, node: Node) -> Any:
        value = node.meta["val"]
        if isinstance(value, (int, SymInt)):
            return self.size(value)
        if node.op == "get_attr":
            return self._constants[str(node.target)]
        if node.op == "placeholder":
            shape = [self.size(size) for size in value.shape]
            return torch.arange(shape[-1]).expand(shape)
        args, kwargs = map_arg((node.args, dict(node.kwargs)), self._argument(node))
        args, kwargs = map_aggregate((args, kwargs), _on_cpu)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _argument(self, user: Node) -> Any:
        """How `user` sees its arguments: computed, or only shaped where it looks at no values."""
        if is_call(user, *_SHAPE_ONLY):
            return lambda node: self._blank(node) if isinstance(node.meta["val"], Tensor) else self._values[node]
        return self._values.__getitem__

    def _blank(self, node: Node) -> Tensor:
        like = node.meta["val"]
        return torch.zeros((), dtype=_on_cpu(like.dtype)).expand([self.size(size) for size in like.shape])


def _on_cpu(argument: Any) -> Any:
    if isinstance(argument, torch.device):
        return torch.device("cpu")
    return torch.float32 if argument in _NARROW else argument


def _sources(node: Node) -> Iterator[Node]:
    """`node` and all whose values it is computed from, each after those that use it."""
    needed = {node}
    for one in _backwards(node):
        if one in needed:
            yield one
            needed.update(_inputs(one))


def _backwards(node: Node) -> Iterator[Node]:
    while node.op != "root":
        yield node
        node = node.prev


def _inputs(node: Node) -> list[Node]:
    """The nodes whose values a call reads; a size is known without them."""
    if isinstance(node.meta.get("val"), (int, SymInt)):
        return []
    if is_call(node, *_SHAPE_ONLY):
        return [one for one in node.all_input_nodes if not isinstance(one.meta["val"], Tensor)]
    return node.all_input_nodes

"""Steps of a program on the CPU, recorded once for each batch size and then run by a handful of calls.

Running a graph node by node costs the host microseconds a node, mostly for views; a tape of the kernels, with the
addresses of their arguments, costs nothing. docs/adr/0009 says why it is done so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

_UNSTEADY = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


def why_not_recordable(graph: Graph) -> str | None:
    """The reason why steps of a bound graph cannot be recorded, or None: shapes must follow from its inputs' shapes."""
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and any(tag in node.target.tags for tag in _UNSTEADY):
            return f"what {node.name} gives depends on data"
    return None


@dataclass(frozen=True)
class Kernels:
    """Calls [first, last) of a tape."""

    tape: Any
    first: int
    last: int

    def run(self) -> None:
        """Run them again."""
        self.tape.replay(self.first, self.last)


@dataclass(frozen=True)
class Call:
    """A call of anything else, whose results go where they went when it was recorded."""

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Tensor, ...]

    def run(self) -> None:
        """Call it again."""
        again = self.target(*self.args, **self.kwargs)
        for result, new in zip(self.results, _tensors_of(again), strict=True):
            if result.data_ptr() != new.data_ptr():
                result.copy_(new)


@dataclass(frozen=True)
class RecordedStep:
    """A step of fixed shapes.

    `inputs` are the tensors whose values may change, `others` those that it reads or writes besides, `output` its
    result.
    """

    inputs: tuple[Tensor, ...]
    others: tuple[Tensor, ...]
    parts: tuple[Kernels | Call, ...]
    output: Tensor

    def run(self, inputs: Sequence[Tensor]) -> Tensor:
        """The result for other values of the inputs; the next run overwrites it."""
        for held, new in zip(self.inputs, inputs, strict=True):
            held.copy_(new)
        for part in self.parts:
            part.run()
        return self.output


def record(graph: Graph, inputs: Sequence[Tensor], others: Sequence[Tensor]) -> RecordedStep:
    """Run a bound graph on copies of `inputs` and on `others`, its remaining arguments, and write down how."""
    held = tuple(tensor.clone() for tensor in inputs)
    recording = _Recording(graph)
    output = recording.run((*held, *others))
    return RecordedStep(held, tuple(others), tuple(recording.parts), output)


class _Recording:
    """One run of a graph that notes what it calls."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._tape = torch.classes.autodeploy_native.Tape()
        self._values: dict[Node, Any] = {}
        self.parts: list[Kernels | Call] = []

    def run(self, arguments: Sequence[Tensor]) -> Tensor:
        """The graph's result for its `arguments`."""
        remaining = iter(arguments)
        last_reads = _last_reads(self._graph)
        for node in self._graph.nodes:
            if node.op == "placeholder":
                self._values[node] = next(remaining)
            elif node.op == "call_function":
                self._values[node] = self._call(node)
            else:
                result: Tensor = self._values[node.args[0]]
                return result
            for dead in last_reads[node]:  # its memory is then free for others
                del self._values[dead]
        raise AssertionError("a graph without an output")

    def _call(self, node: Node) -> Any:
        args = map_arg(node.args, self._values.__getitem__)
        kwargs = map_arg(node.kwargs, self._values.__getitem__)
        target: Any = node.target
        if isinstance(target, torch._ops.OpOverload) and target.namespace == "autodeploy_native":
            return self._launch(target, args, kwargs)
        result = target(*args, **kwargs)
        if not _only_views(target, (args, kwargs), result):
            self.parts.append(Call(target, args, kwargs, _tensors_of(result)))
        return result

    def _launch(self, kernel: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        first = self._tape.size()
        self._tape.start()
        try:
            result = kernel(*args, **kwargs)
        finally:
            self._tape.stop()
        before = self.parts[-1] if self.parts else None
        if isinstance(before, Kernels):
            first = before.first
            self.parts.pop()
        self.parts.append(Kernels(self._tape, first, self._tape.size()))
        return result


def _tensors_of(result: Any) -> tuple[Tensor, ...]:
    """All tensors of a call's result, which mostly is one."""
    if isinstance(result, Tensor):
        return (result,)
    return tuple(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))


def _last_reads(graph: Graph) -> dict[Node, list[Node]]:
    """For each node, those whose values nobody reads after it."""
    last = {argument: node for node in graph.nodes for argument in node.all_input_nodes}
    result: dict[Node, list[Node]] = defaultdict(list)
    for argument, node in last.items():
        result[node].append(argument)
    return result


def _only_views(target: Any, arguments: Any, result: Any) -> bool:
    """Whether a call has done nothing but look at its arguments' memory in another way, which needs no repeating."""
    if isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable:
        return False
    theirs = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)}
    return all(leaf.untyped_storage().data_ptr() in theirs for leaf in tree_leaves(result) if isinstance(leaf, Tensor))


class RecordedSteps:
    """The decode steps of a bound graph, each recorded when its batch size first comes, for one cache."""

    def __init__(self, graph: Graph, weights: Sequence[Tensor]) -> None:
        self._graph = graph
        self._weights = weights
        self._steps: dict[tuple[torch.Size, ...], RecordedStep] = {}
        self._cache_at: tuple[int, ...] = ()

    def run(self, inputs: Sequence[Tensor], cache: Sequence[Tensor]) -> Tensor:
        """The graph's result for a step's `inputs` over `cache`."""
        cache_at = tuple(pages.data_ptr() for pages in cache)
        if cache_at != self._cache_at:
            self._steps.clear()
            self._cache_at = cache_at
        shapes = tuple(tensor.shape for tensor in inputs)
        step = self._steps.get(shapes)
        if step is not None:
            return step.run(inputs).clone()
        self._steps[shapes] = step = record(self._graph, inputs, (*cache, *self._weights))
        return step.output.clone()

"""What each operator of a graph does in a step: the bytes it moves, and its arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

import autodeploy.ops  # noqa: F401  (registers torch.ops.autodeploy)
from autodeploy.cost.meta import MetaInterpreter
from autodeploy.cost.step import StepShape
from autodeploy.graph.nodes import arguments
from autodeploy.graph.origin import module_path

PACKED = torch.ops.autodeploy.packed_linear.default
CANONICAL = "autodeploy"

Kind = Literal["matmul", "experts", "attention", "rows"]
"""Products with a weight; those of experts; attention over the cache; everything else, which streams rows."""


@dataclass(frozen=True)
class Attended:
    """What attention does for each token of the cache that its queries see, and for each pair of a query and a key."""

    window: int | None
    bytes_per_token: float
    flops_per_pair: float


@dataclass(frozen=True)
class Routed:
    """Tokens that each choose some of the experts."""

    num_experts: int
    num_chosen: int
    num_tokens: int

    @property
    def share(self) -> float:
        """The expected share of experts that somebody chooses, when each token chooses evenly."""
        return float(1 - (1 - self.num_chosen / self.num_experts) ** self.num_tokens)


@dataclass(frozen=True)
class Work:
    """One call in a step.

    `precision` is that of its arithmetic, such as "bfloat16". `module` is where the model's code has it. With
    `times`, the call stands for so many alike in other layers, and every figure is that of one.
    """

    name: str
    operator: str
    kind: Kind
    module: str | None
    precision: str
    weight_bytes: Mapping[str, float] = field(default_factory=dict)
    """Bytes that the step reads of each weight, which other calls may read too."""
    cache_bytes: float = 0.0
    row_bytes: float = 0.0
    """Activations read and written."""
    num_flops: float = 0.0
    times: float = 1.0
    is_narrow: bool = False
    """Whether its weight has 8 bits an element or fewer."""
    num_decoded: float = 0.0
    """Elements of its weight that are widened to 16 bits as they are multiplied."""
    attended: Attended | None = None
    routed: Routed | None = None
    """Of experts, which tokens choose them: `weight_bytes` are those of the ones that are chosen."""

    def at(self, shape: StepShape) -> Work:
        """The same where each request has as many tokens in the cache as in `shape`."""
        if self.attended is None:
            return self
        seen, pairs = (shape.num_requests * one(self.attended.window) for one in (shape.num_seen, shape.num_pairs))
        cache, flops = seen * self.attended.bytes_per_token, pairs * self.attended.flops_per_pair
        return replace(self, cache_bytes=cache, num_flops=flops)

    def whole_bytes(self, name: str) -> float:
        """Bytes of one weight, of experts with those that nobody chooses."""
        size = self.weight_bytes[name]
        return size if self.routed is None else float(round(size / self.routed.share))

    @property
    def num_bytes(self) -> float:
        """All bytes that one call moves."""
        return sum(self.weight_bytes.values()) + self.cache_bytes + self.row_bytes


def count_works(graph_module: GraphModule, inputs: list[Tensor], times: Callable[[Node], float]) -> list[Work]:
    """The work of each call of a graph that moves or computes something, in its order; views do neither.

    `inputs` are on the meta device, and so are the graph's weights. `times` says for how many calls one stands. What
    attention does follows from the tokens in the cache: `Work.at` adds it.
    """
    counter = _Counter(graph_module, times)
    counter.run(*inputs)
    return counter.works


class _Counter(MetaInterpreter):
    """Runs a graph on tensors without data, and writes down what each call does."""

    def __init__(self, graph_module: GraphModule, times: Callable[[Node], float]) -> None:
        super().__init__(graph_module)
        self.times = times
        self.works: list[Work] = []

    def run_node(self, n: Node) -> Any:
        """Run a node, and count it."""
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload):
            self._count(n, n.target, result)
        return result

    def _count(self, node: Node, target: torch._ops.OpOverload, result: Any) -> None:
        outs = [one for one in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(one, Tensor)]
        ins = [one for one in node.all_input_nodes if one.op != "get_attr" and isinstance(self.env[one], Tensor)]
        if not outs or (target.is_view and outs[0].dtype == self.env[node.all_input_nodes[0]].dtype):
            return
        named = arguments(node)
        attends = "key_pages" in named
        rows = [self.env[one] for one in ins if not attends or one is named["q"]]
        routed = self._routed(named, outs[0]) if _has_experts(target) else None
        work = Work(
            node.name,
            target.__name__.partition(".")[0],
            _kind(target, named),
            module_path(node),
            str((rows[0] if rows else outs[0]).dtype).removeprefix("torch."),
            self._weights(node, outs[0], 1.0 if routed is None else routed.share),
            0.0,
            float(sum(one.nbytes for one in (*rows, *outs))) if not _looks_up(target) else 2.0 * outs[0].nbytes,
            0.0 if attends else self._product(target, named, outs[0]),
            self.times(node),
            any(self.env[one].itemsize == 1 for one in node.all_input_nodes if one.op == "get_attr"),
            float(len(self.env[named["weight"]]) * rows[0].shape[-1]) if target is PACKED else 0.0,
            self._attended(named) if attends else None,
            routed,
        )
        self.works.append(work)

    def _weights(self, node: Node, out: Tensor, share: float) -> dict[str, float]:
        """Of an embedding only the rows of the tokens count, of experts the share that somebody chooses."""
        weights = [one for one in node.all_input_nodes if one.op == "get_attr"]
        if _looks_up(node.target):
            return {f"{one.target} (rows)": float(out.nbytes) for one in weights}
        return {str(one.target): share * self.env[one].nbytes for one in weights}

    def _routed(self, named: Mapping[str, Any], out: Tensor) -> Routed:
        return Routed(len(self.env[named["weight"]]), out.shape[-2], out.shape[:-2].numel())

    def _product(self, target: torch._ops.OpOverload, named: Mapping[str, Any], out: Tensor) -> float:
        """Two operations for each element of a weight and each row that it is multiplied with."""
        if target.namespace != CANONICAL or not isinstance(named.get("x"), Node) or "weight" not in named:
            return 0.0
        weight, width = self.env[named["weight"]], self.env[named["x"]].shape[-1]
        if _has_experts(target):
            return float(2 * out.numel() * width)
        if target.__name__.startswith("convolution"):
            return float(2 * out.numel() * weight[0].numel())
        return float(2 * out.shape[:-1].numel() * len(weight) * width) if weight.ndim == 2 else 0.0

    def _attended(self, named: Mapping[str, Any]) -> Attended:
        pages = [self.env[named[name]] for name in ("key_pages", "value_pages")]
        a_token = sum(one.shape[1] * one.shape[3] * one.itemsize for one in pages)
        a_pair = 2 * self.env[named["q"]].shape[-2] * sum(one.shape[3] for one in pages)
        return Attended(named["window"], float(a_token), float(a_pair))


def _kind(target: torch._ops.OpOverload, named: Mapping[str, Any]) -> Kind:
    if "key_pages" in named:
        return "attention"
    if _has_experts(target):
        return "experts"
    return "matmul" if target.namespace == CANONICAL and "linear" in target.__name__ else "rows"


def attends(node: Node) -> bool:
    """Whether `node` is attention over the cache."""
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and "key_pages" in {one.name for one in target._schema.arguments}


def _looks_up(target: Any) -> bool:
    """Whether rows of a table are read: PyTorch's operator, or the canonical one."""
    return isinstance(target, torch._ops.OpOverload) and target.__name__.startswith("embedding.")


def _has_experts(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and "expert" in target.__name__

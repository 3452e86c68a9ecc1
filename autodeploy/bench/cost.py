"""What a step of a graph cannot do without: the bytes it reads and the arithmetic it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_aggregate

from autodeploy.artifact import Artifact
from autodeploy.graph.nodes import arguments
from autodeploy.program import ProgramSpec
from autodeploy.runtime.model import StepInputs

EXPERTS = torch.ops.autodeploy.expert_linear.default
EMBEDDING = torch.ops.aten.embedding.default
META = torch.device("meta")


@dataclass(frozen=True)
class StepShape:
    """A step of `num_requests` alike: each computes `num_tokens`, after which its cache holds `context` tokens.

    `context` may be the mean of several steps.
    """

    num_requests: int
    num_tokens: int
    context: float

    @property
    def total_tokens(self) -> int:
        """Rows of the step."""
        return self.num_requests * self.num_tokens

    def num_seen(self, window: int | None) -> float:
        """Tokens of one request that its queries see at all."""
        return self.context if window is None else min(self.context, window + self.num_tokens - 1)

    def num_pairs(self, window: int | None) -> float:
        """Queries of one request times the keys each sees."""
        first = self.context - self.num_tokens + 1
        if window is None or self.context <= window:
            return self.num_tokens * (first + self.context) / 2
        return sum(min(first + index, window) for index in range(self.num_tokens))


@dataclass(frozen=True)
class Cost:
    """Bytes read from the device's memory, and floating-point operations (a multiplication and an addition are two)."""

    num_bytes: float = 0.0
    num_flops: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.num_bytes + other.num_bytes, self.num_flops + other.num_flops)

    def times(self, count: float) -> Cost:
        """The cost of `count` such steps."""
        return Cost(count * self.num_bytes, count * self.num_flops)


@dataclass(frozen=True)
class CostModel:
    """Counts what steps of one program cost. Its graph's weights are on the meta device."""

    graph_module: GraphModule
    spec: ProgramSpec

    @classmethod
    def of(cls, artifact: Artifact) -> CostModel:
        """The costs of an artifact's program."""
        spec = ProgramSpec.from_dict(artifact.manifest.details["program"])  # type: ignore[arg-type]
        return cls(artifact.graph_module(), spec)

    def cost(self, shape: StepShape) -> Cost:
        """The least that a step costs: each weight is read once, and so is the cache of each request.

        Of an embedding only the rows of the tokens count, of experts the share that evenly spread tokens would choose.
        Activations are taken to stay on the chip.
        """
        counter = _Counter(self.graph_module, shape)
        counter.run(*self._inputs(shape))
        return Cost(counter.num_bytes + sum(counter.weights.values()), counter.num_flops)

    def _inputs(self, shape: StepShape) -> list[Tensor]:
        tokens, requests = (1, shape.total_tokens), (shape.num_requests,)
        sizes: dict[str, tuple[int, ...]] = {
            "input_ids": tokens,
            "position_ids": tokens,
            "slots": tokens[1:],
            "query_start": (shape.num_requests + 1,),
            "context_len": requests,
            "logit_rows": requests,
            "page_table": (shape.num_requests, 1),
        }
        assert sizes.keys() == StepInputs.__dataclass_fields__.keys()
        given = {name: torch.empty(size, dtype=torch.int64, device=META) for name, size in sizes.items()}
        for one in self.spec.caches:
            given[one.name] = torch.empty((1, one.num_heads, 1, one.head_dim), dtype=one.dtype, device=META)
        return [given[str(node.target)] for node in self.graph_module.graph.find_nodes(op="placeholder")]


class _Counter(Interpreter):
    """Runs a graph on tensors without data, and adds up."""

    def __init__(self, graph_module: GraphModule, shape: StepShape) -> None:
        super().__init__(graph_module)
        self.shape = shape
        self.weights: dict[str, float] = {}
        """Bytes that the step reads of each weight."""
        self.num_bytes = 0.0
        self.num_flops = 0.0

    def call_function(self, target: Callable[..., Any] | str, args: Any, kwargs: Any) -> Any:
        """Call with the devices that tracing baked in replaced."""
        args, kwargs = (
            map_aggregate(one, lambda a: META if isinstance(a, torch.device) else a) for one in (args, kwargs)
        )
        return super().call_function(target, args, kwargs)

    def run_node(self, n: Node) -> Any:
        """Run a node, and count it."""
        result = super().run_node(n)
        if n.op == "call_function":
            self._count(n, result)
        return result

    def _count(self, node: Node, result: Any) -> None:
        out = result[0] if isinstance(result, (tuple, list)) else result
        if isinstance(node.target, torch._ops.OpOverload):
            named = arguments(node)
            if "key_pages" in named:
                self._count_attention(named)
        for weight in node.all_input_nodes:
            if weight.op == "get_attr":
                self._count_weight(node, str(weight.target), self.env[weight], out)

    def _count_weight(self, node: Node, name: str, weight: Tensor, out: Tensor) -> None:
        rows = out.shape[:-1].numel()
        if node.target is EMBEDDING:
            self.num_bytes += out.numel() * out.itemsize
            return
        share = 1.0
        if node.target is EXPERTS:
            share = _chosen_share(len(weight), out.shape[-2], rows // out.shape[-2])
            self.num_flops += 2 * rows * weight.numel() / len(weight) if weight.ndim == 3 else 0
        elif weight.ndim == 2 and not _is_plain(node):
            self.num_flops += 2 * rows * weight.numel()
        self.weights[name] = share * weight.numel() * weight.itemsize

    def _count_attention(self, named: dict[str, Any]) -> None:
        keys, values, q = (self.env[named[name]] for name in ("key_pages", "value_pages", "q"))
        window, requests = named["window"], self.shape.num_requests
        a_token = sum(pages.shape[1] * pages.shape[3] * pages.itemsize for pages in (keys, values))
        self.num_bytes += requests * self.shape.num_seen(window) * a_token
        widths = keys.shape[3] + values.shape[3]
        self.num_flops += 2 * requests * self.shape.num_pairs(window) * q.shape[-2] * widths


def _is_plain(node: Node) -> bool:
    """Whether PyTorch's own operator reads a weight: matmuls have become canonical, so this is a view or a sum."""
    return not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace == "aten"


def _chosen_share(num_experts: int, num_chosen: int, num_tokens: int) -> float:
    """The expected share of experts that somebody chooses, when each token chooses evenly."""
    return float(1 - (1 - num_chosen / num_experts) ** num_tokens)

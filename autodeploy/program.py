"""A lowered graph with its weights on one device, ready to run steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate

from autodeploy.capture import capture_graph
from autodeploy.graph.aliases import why_kept
from autodeploy.graph.selection import without_selection
from autodeploy.kernels import Kernel, KernelTable
from autodeploy.kernels.native import why_unavailable
from autodeploy.kernels.native.steps import RecordedSteps, why_not_recordable
from autodeploy.runtime.model import StepInputs
from autodeploy.tuning.attention import ATTENTIONS, attention_of
from autodeploy.tuning.choices import Choices
from autodeploy.tuning.dispatch import tuned_attention, tuned_linear
from autodeploy.tuning.matmul import MATMULS, RESIDUAL, Matmul
from autodeploy.tuning.session import Tuning

_STEP_INPUTS = frozenset(StepInputs.__dataclass_fields__)
_UNTUNED = Tuning()
_NONE_CHOSEN = _UNTUNED.choices
_MOST_RECORDED_ROWS = 64


@dataclass(frozen=True)
class CacheSpec:
    """One input that holds pages: `[num_pages, num_heads, page_size, head_dim]` of `dtype`."""

    name: str
    num_heads: int
    head_dim: int
    dtype: torch.dtype

    def bytes_of(self, page_size: int) -> int:
        """The size of one page in bytes."""
        return self.num_heads * page_size * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True)
class ProgramSpec:
    """What the runtime must know of a program besides its graph."""

    vocab_size: int
    max_model_len: int
    caches: tuple[CacheSpec, ...]

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON data."""
        caches = [[one.name, one.num_heads, one.head_dim, str(one.dtype).removeprefix("torch.")] for one in self.caches]
        return {"vocab_size": self.vocab_size, "max_model_len": self.max_model_len, "caches": caches}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProgramSpec:
        """The facts from JSON data that `as_dict` wrote."""
        caches = tuple(CacheSpec(name, heads, dim, getattr(torch, dtype)) for name, heads, dim, dtype in data["caches"])
        return cls(data["vocab_size"], data["max_model_len"], caches)


def cache_specs(graph: Graph) -> tuple[CacheSpec, ...]:
    """The page inputs of a graph, in order: what is neither step data nor a weight."""
    pages = [node for node in graph.find_nodes(op="placeholder") if node.target not in _STEP_INPUTS]
    values = [(str(node.target), node.meta["val"]) for node in pages]
    return tuple(CacheSpec(name, int(value.shape[1]), int(value.shape[3]), value.dtype) for name, value in values)


class Program:
    """A model that runs steps: `autodeploy.runtime.model.Model` over a lowered graph.

    The graph is consumed: its operators are bound to kernels of `table`, and its weights become arguments. `capture` is
    what `autodeploy.capture.capture_graph` takes; `tuning` says which kernel runs a projection of how many rows.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        weights: Mapping[str, Tensor],
        table: KernelTable,
        device: torch.device,
        spec: ProgramSpec,
        capture: str | None = None,
        tuning: Tuning = _UNTUNED,
    ) -> None:
        self._spec = spec
        self._device = device
        waiting = [kernel.name for kernel in _chosen(graph_module.graph, table, device) if kernel.waits]
        self._is_capturable = not waiting
        bound, names = bind(graph_module.graph, table, device, tuning.choices)
        inputs = [str(node.target) for node in bound.find_nodes(op="placeholder")]
        self._weights = [weights[name] for name in names]
        self._order = [name for name in inputs if name in _STEP_INPUTS]
        notes = [*tuning.notes, capture_graph(bound, capture)]
        if waiting and device.type == "cuda":
            notes.append(f"steps run without CUDA graphs, since {waiting[0]} waits for the device")
        self.notes = tuple(note for note in notes if note is not None)
        """What the user should know of how the program runs."""
        self._run = _callable_of(bound)
        self._run_whole, self._decode = self._run, None
        if capture != "compile":  # another graph would take as long to compile again
            whole, _ = bind(without_selection(graph_module.graph), table, device, tuning.choices)
            self._run_whole = _callable_of(whole)
            records = device.type == "cpu" and capture is None and why_not_recordable(whole) is None
            records = records and why_unavailable() is None
            self._decode = RecordedSteps(whole, self._weights) if records else None

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self._spec.vocab_size

    @property
    def max_model_len(self) -> int:
        """Positions the model can tell apart."""
        return self._spec.max_model_len

    @property
    def is_capturable(self) -> bool:
        """Whether a CUDA graph can hold a step: none of its kernels waits for the device."""
        return self._is_capturable

    @property
    def device(self) -> torch.device:
        """Where the inputs of a step and the cache live."""
        return self._device

    def new_cache(self, num_pages: int, page_size: int) -> list[Tensor]:
        """Key and value pages of all layers, `[num_pages, num_heads, page_size, head_dim]` each."""
        return [
            torch.zeros(num_pages, one.num_heads, page_size, one.head_dim, dtype=one.dtype, device=self._device)
            for one in self._spec.caches
        ]

    def page_bytes(self, page_size: int) -> int:
        """Bytes of one page over all layers."""
        return sum(one.bytes_of(page_size) for one in self._spec.caches)

    @torch.inference_mode()
    def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
        """Write the tokens into the cache, and return the logits `[R, vocab_size]` in the program's dtype."""
        step = [_as_row(name, getattr(inputs, name)) for name in self._order]
        if self._decode is not None and _is_recorded(inputs):
            return self._decode.run(step, cache)[0]
        run = self._run_whole if _wants_all_rows(inputs) else self._run
        return run(*step, *cache, *self._weights)[0]


def _callable_of(bound: Graph) -> Callable[..., Tensor]:
    run: Callable[..., Tensor] = GraphModule(nn.Module(), bound).forward
    return run


def _wants_all_rows(inputs: StepInputs) -> bool:
    return len(inputs.input_ids) == len(inputs.logit_rows)


def _is_recorded(inputs: StepInputs) -> bool:
    """Whether a step is a decode of few rows: larger ones take the host no time to speak of."""
    rows = len(inputs.input_ids)
    return rows <= _MOST_RECORDED_ROWS and rows == len(inputs.context_len) and _wants_all_rows(inputs)


def _as_row(name: str, tensor: Tensor) -> Tensor:
    """The graph takes tokens as a batch of one row, as the model was traced."""
    return tensor.unsqueeze(0) if name in ("input_ids", "position_ids") else tensor


def bind(
    graph: Graph, table: KernelTable, device: torch.device, choices: Choices = _NONE_CHOSEN
) -> tuple[Graph, list[str]]:
    """A copy of `graph` that calls kernels and takes its weights as arguments; the weights' names, in their order.

    The arguments are the step's data, then the pages, then the weights. Fetching hundreds of weights from modules by
    name would cost more host time in a step than launching the kernels does.
    """
    bound = Graph()
    copies: dict[Node, Node] = {}
    placeholders = graph.find_nodes(op="placeholder")
    weights = graph.find_nodes(op="get_attr")
    for node in sorted(placeholders, key=lambda node: node.target not in _STEP_INPUTS):
        copies[node] = bound.placeholder(str(node.target))
    names = list(dict.fromkeys(str(node.target) for node in weights))
    arguments = {name: bound.placeholder(f"weight_{index}") for index, name in enumerate(names)}
    copies.update({node: arguments[str(node.target)] for node in weights})
    for node in graph.nodes:
        if node.op == "call_function":
            copies[node] = bound.node_copy(node, copies.__getitem__)
            copies[node].target = _callable(node, table, device, choices)
            copies[node].args = _on_device(copies[node].args, device)
            copies[node].kwargs = _on_device(copies[node].kwargs, device)
        elif node.op == "output":
            bound.output(copies[node.args[0]])
    bound.lint()
    return bound, names


def _chosen(graph: Graph, table: KernelTable, device: torch.device) -> Iterator[Kernel]:
    """The kernels that a graph runs."""
    return (_kernel(node, table, device) for node in graph.nodes if "backend" in node.meta)


def _callable(node: Node, table: KernelTable, device: torch.device, choices: Choices) -> Any:
    """What computes `node`."""
    if "backend" not in node.meta:
        return node.target
    if node.target is RESIDUAL and why_kept(node.args[2], node) is None:  # type: ignore[arg-type]
        table = table.overwriting()
    kernel = _kernel(node, table, device)
    if node.target in MATMULS:
        return tuned_linear(Matmul.of(node), choices, table, kernel.run)
    if node.target in ATTENTIONS and choices.entries:
        kinds = attention_of(node, prompt=False), attention_of(node, prompt=True)
        return tuned_attention(kinds, choices, table, kernel.run)
    return kernel.run


def _kernel(node: Node, table: KernelTable, device: torch.device) -> Kernel:
    """The kernel of the backend chosen for `node`, or the reference when that is not available here."""
    assert isinstance(node.target, torch._ops.OpOverload)
    kernel = table.find(node.target, node.meta["backend"])
    if kernel is None or device.type not in kernel.devices:
        kernel = table.find(node.target, "torch")
    assert kernel is not None, f"no reference serves {node.target}"
    return kernel


def _on_device(arguments: Any, device: torch.device) -> Any:
    """Arguments with every device that tracing baked in replaced by the one that runs the program."""
    return map_aggregate(arguments, lambda value: device if isinstance(value, torch.device) else value)

"""Which projections suffer most from being rounded: each by itself, all others as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Graph, Node

from autodeploy.discovery import kernel_table
from autodeploy.graph.nodes import calls_of
from autodeploy.optimizer import Optimized
from autodeploy.program import Program
from autodeploy.quality.compare import divergence, log_probs
from autodeploy.quantization import Scheme, dequantize, round_weight

ops = torch.ops.autodeploy
APART = {"passes.fuse_qkv": False, "passes.fuse_gate_up": False}
"""The settings of a recipe under which each projection keeps a weight of its own."""


@dataclass(frozen=True)
class Unit:
    """The projections of one input, which are quantized alike so that they can be joined: their paths and shapes."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]

    @property
    def num_weights(self) -> int:
        """How many numbers its weights hold."""
        return sum(rows * columns for rows, columns in self.shapes)

    def allows(self, scheme: Scheme) -> bool:
        """Whether all of its shapes can be quantized so."""
        return all(scheme.declines(shape) is None for shape in self.shapes)

    def __str__(self) -> str:
        first, *others = self.names
        return ", ".join([first, *(name.rpartition(".")[2] for name in others)])


@dataclass(frozen=True)
class Sensitivity:
    """How far rounding one unit's weights moves the predictions: `kl` in nats a token. Inputs are not rounded."""

    unit: Unit
    scheme: str
    kl: float


class Trials:
    """A model with some of its weights rounded, next to itself, on the same windows of token ids.

    `optimized` is unquantized, and made with the settings `APART`. Holds the reference's logarithms of probabilities:
    4 bytes for each token of the windows and each of the vocabulary.
    """

    def __init__(self, optimized: Optimized, device: torch.device, windows: Sequence[Sequence[int]]) -> None:
        self._optimized = optimized
        self._device = device
        self._windows = windows
        self._tensors = optimized.weights.read(optimized.source, device)
        reference = self._program(self._tensors)
        self._told = [log_probs(reference, window) for window in windows]
        self.units = units_of(optimized.graph_module.graph)

    def sensitivity(self, unit: Unit, name: str, scheme: Scheme) -> Sensitivity:
        """Of one unit, under `scheme`, which is called `name`."""
        rounded = {path: _rounded(self._tensors[path], scheme) for path in (f"{one}.weight" for one in unit.names)}
        program = self._program({**self._tensors, **rounded})
        kls = [
            divergence(told, log_probs(program, window)) for told, window in zip(self._told, self._windows, strict=True)
        ]
        return Sensitivity(unit, name, sum(kls) / sum(len(told) for told in self._told))

    def _program(self, tensors: Mapping[str, Tensor]) -> Program:
        graph, spec = self._optimized.graph_module, self._optimized.spec
        assert spec is not None, "a language model has a spec"
        return Program(graph, tensors, kernel_table(self._device), self._device, spec)


def measure_sensitivities(
    trials: Trials, schemes: Mapping[str, Scheme], observe: Callable[[Sensitivity], None] = lambda _: None
) -> tuple[Sensitivity, ...]:
    """Every unit under every one of the schemes, given by their names, that its shapes allow."""
    found = []
    for unit in trials.units:
        for name, scheme in schemes.items():
            if unit.allows(scheme):
                found.append(trials.sensitivity(unit, name, scheme))
                observe(found[-1])
    return tuple(found)


def units_of(graph: Graph) -> tuple[Unit, ...]:
    """The projections of a graph by what they read, without the head, in order."""
    groups: dict[object, list[Node]] = {}
    calls = calls_of(graph, ops.linear.default, ops.linear_activation.default)
    for call in calls[:-1]:  # the head is the last
        if isinstance(call.args[1], Node) and call.args[1].op == "get_attr":
            groups.setdefault(call.args[0], []).append(call.args[1])
    return tuple(Unit(tuple(map(_path, group)), tuple(map(_shape, group))) for group in groups.values())


def _path(weight: Node) -> str:
    return str(weight.target).removesuffix(".weight")


def _shape(weight: Node) -> tuple[int, int]:
    rows, columns = weight.meta["val"].shape
    return int(rows), int(columns)


def _rounded(weight: Tensor, scheme: Scheme) -> Tensor:
    """What is left of a weight once it is rounded, in its own dtype."""
    parts = round_weight(weight, _weights_only(scheme))
    return dequantize(parts.values, parts.scale, parts.zero, parts.global_scale, scheme.weights).to(weight.dtype)


def _weights_only(scheme: Scheme) -> Scheme:
    """The scheme for weights alone."""
    return scheme.model_copy(update={"activations": "none", "activation_group": 0})

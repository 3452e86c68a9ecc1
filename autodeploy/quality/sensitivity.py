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
from autodeploy.quantization.marks import scheme_of

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

    def loss(self, schemes: Mapping[str, Scheme]) -> float:
        """How far rounding the weights of projections, by their paths, moves the predictions, in nats a token."""
        weights = {f"{name}.weight": scheme for name, scheme in schemes.items()}
        rounded = {path: _rounded(self._tensors[path], scheme) for path, scheme in weights.items()}
        program = self._program({**self._tensors, **rounded})
        kls = [
            divergence(told, log_probs(program, window)) for told, window in zip(self._told, self._windows, strict=True)
        ]
        return sum(kls) / sum(len(told) for told in self._told)

    def squared_error(self, unit: Unit, scheme: Scheme) -> float:
        """What rounding a unit's weights does to them: the sum of the squares."""
        weights = [self._tensors[f"{name}.weight"] for name in unit.names]
        return sum((_rounded(one, scheme).float() - one.float()).square().sum().item() for one in weights)

    def _program(self, tensors: Mapping[str, Tensor]) -> Program:
        graph, spec = self._optimized.graph_module, self._optimized.spec
        assert spec is not None, "a language model has a spec"
        return Program(graph, tensors, kernel_table(self._device), self._device, spec)


def measure_sensitivities(
    trials: Trials, schemes: Mapping[str, Scheme], observe: Callable[[Unit], None] = lambda _: None
) -> tuple[Sensitivity, ...]:
    """Every unit under every one of the schemes, given by their names, the coarsest first, that its shapes allow.

    Each unit is measured under the first of them. What others lose is to that as the squares of their rounding errors:
    near its minimum the divergence is of second order in the weights (LeCun, Denker and Solla, 1990).
    """
    found: list[Sensitivity] = []
    for unit in trials.units:
        allowed = {name: scheme for name, scheme in schemes.items() if unit.allows(scheme)}
        errors = {name: trials.squared_error(unit, scheme) for name, scheme in allowed.items()}
        loss = next((trials.loss(dict.fromkeys(unit.names, scheme)) for scheme in allowed.values()), 0.0)
        whole = next(iter(errors.values()), 0.0)
        found += [Sensitivity(unit, name, loss * error / whole if whole else 0.0) for name, error in errors.items()]
        observe(unit)
    return tuple(found)


def measure_layers(
    trials: Trials, schemes: Mapping[str, Scheme], observe: Callable[[float], None] = lambda _: None
) -> dict[str, float]:
    """The loss of each layer by itself, in nats a token, when its projections are rounded by their `schemes`.

    Layers go by their paths, such as `model.layers.3`; what is in no layer goes by its own.
    """
    layers: dict[str, dict[str, Scheme]] = {}
    for name, scheme in schemes.items():
        if scheme.is_quantized:
            layers.setdefault(_layer(name), {})[name] = scheme
    losses = {}
    for layer, rounded in layers.items():
        losses[layer] = trials.loss(rounded)
        observe(losses[layer])
    return losses


def units_of(graph: Graph) -> tuple[Unit, ...]:
    """The projections of a graph by what they read, without the head, in order."""
    groups: dict[object, list[Node]] = {}
    for call, weight in _projections(graph)[:-1]:  # the head is the last
        groups.setdefault(call.args[0], []).append(weight)
    return tuple(Unit(tuple(map(_path, group)), tuple(map(_shape, group))) for group in groups.values())


def schemes_of(graph: Graph) -> dict[str, Scheme]:
    """The scheme that each projection of a graph is marked with, by its path."""
    return {_path(weight): scheme_of(weight) for _, weight in _projections(graph)}


def _projections(graph: Graph) -> list[tuple[Node, Node]]:
    """The calls that multiply by a weight, each with it."""
    calls = calls_of(graph, ops.linear.default, ops.linear_activation.default)
    found = [(call, call.args[1]) for call in calls]
    return [(call, weight) for call, weight in found if isinstance(weight, Node) and weight.op == "get_attr"]


def _layer(name: str) -> str:
    """The path of a projection up to the number of its layer."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: number + 1])


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

"""The first layers of a model that hold one of each kind: tracing them tells what tracing all of them would."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from transformers import AutoModelForCausalLM, PretrainedConfig

from autodeploy.errors import UnsupportedError
from autodeploy.graph.origin import module_path

_NUMBERING = re.compile(r"idx|index|layer_id|number")  # attributes that tell equal layers apart


@dataclass(frozen=True)
class Sample:
    """A config of a model's first layers, and for how many of the whole model each of them stands.

    `path` is where the layers are, such as `model.layers`; it is empty, and the config the model's own, when no list
    of layers was found or when nothing repeats.
    """

    config: PretrainedConfig
    num_layers: int
    path: str = ""
    weights: tuple[float, ...] = ()

    def times(self, node: Node) -> float:
        """For how many calls of the whole model `node` stands."""
        if not self.path:
            return 1.0
        found = re.match(rf"{re.escape(self.path)}\.(\d+)", module_path(node) or "")
        return self.weights[int(found[1])] if found else 1.0


@dataclass(frozen=True)
class Counted:
    """What a model has, without any of its weights."""

    num_parameters: int
    layers: tuple[Hashable, ...]
    """The kind of each layer."""
    path: str


def count_model(config: PretrainedConfig) -> Counted:
    """Make the model of `config` on the meta device, a fraction of a second for a hundred layers, and look at it.

    Raises UnsupportedError where transformers cannot make it.
    """
    factory: Any = AutoModelForCausalLM
    try:
        with torch.device("meta"):
            model: nn.Module = factory.from_config(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedError(f"model type {config.model_type!r}: {reason}") from error
    path, layers = _find_layers(model, config.get_text_config().num_hidden_layers)
    return Counted(sum(one.numel() for one in model.parameters()), tuple(map(_kind, layers)), path)


def sample_layers(config: PretrainedConfig, counted: Counted) -> Sample:
    """The fewest layers that hold every kind, beside the first and the last: picked, or else the first so many.

    The first stands for itself, since its norm joins no residual, and so does the last, which may compute the rows
    alone whose logits are wanted; the others share what is left of their kind.
    """
    layers = counted.layers
    wanted = _representatives(layers)
    if len(wanted) == len(layers):
        return Sample(config, len(layers))
    short = _shortened(config, wanted)
    if count_model(short).layers != tuple(layers[index] for index in wanted):  # its code counts layers by itself
        wanted = _beginning(layers)
        short = _shortened(config, wanted)
    return Sample(short, len(layers), counted.path, _weights(layers, [layers[index] for index in wanted]))


def _representatives(layers: tuple[Hashable, ...]) -> list[int]:
    """The first layer, the first of each kind between, and the last."""
    between = layers[1:-1]
    return sorted({0, *(1 + between.index(kind) for kind in set(between)), len(layers) - 1})


def _beginning(layers: tuple[Hashable, ...]) -> list[int]:
    """As few layers from the first on as end like the whole, and have between what the whole has."""
    ends = (end for end in range(2, len(layers) + 1) if layers[end - 1] == layers[-1])
    return list(range(next(end for end in ends if set(layers[1 : end - 1]) == set(layers[1:-1]))))


def _weights(layers: tuple[Hashable, ...], kept: list[Hashable]) -> tuple[float, ...]:
    there, whole = Counter(kept[1:-1]), Counter(layers[1:-1])
    return (1.0, *(whole[kind] / there[kind] for kind in kept[1:-1]), 1.0)


def _shortened(config: PretrainedConfig, wanted: list[int]) -> PretrainedConfig:
    """A copy with the `wanted` layers alone, also in lists that hold a value for each layer."""
    short = copy.deepcopy(config)
    text = short.get_text_config()
    whole = text.num_hidden_layers
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == whole:
            setattr(text, name, [value[index] for index in wanted])
    text.num_hidden_layers = len(wanted)
    return short


def _find_layers(model: nn.Module, num_layers: int) -> tuple[str, list[nn.Module]]:
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return path, list(module)
    return "", []


def _kind(layer: nn.Module) -> Hashable:
    """What tells layers apart: their modules with their shapes and plain settings."""
    return tuple((path, type(module).__name__, _settings(module)) for path, module in layer.named_modules())


def _settings(module: nn.Module) -> Hashable:
    shapes = tuple((name, tuple(one.shape)) for name, one in module.named_parameters(recurse=False))
    plain = tuple(
        (name, value)
        for name, value in sorted(vars(module).items())
        if isinstance(value, (bool, int, float, str, type(None))) and not _NUMBERING.search(name)
    )
    return shapes, plain

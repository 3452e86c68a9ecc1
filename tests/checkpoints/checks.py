"""A tiny model whose checkpoint is written by a test, and its logits next to those of the plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph
from transformers import PretrainedConfig

from autodeploy.graph.nodes import calls_of
from autodeploy.program import Program, ProgramSpec, cache_specs
from autodeploy.testing.families import MAX_POSITIONS, VOCAB_SIZE, tiny_model
from autodeploy.verify.continuous import continuous
from autodeploy.weights import MemorySource
from tests.families import Built, build, config_of, error, kernel_table, replay

ops = torch.ops.autodeploy
QUANTIZED = (
    ops.packed_linear.default,
    ops.packed_gated_linear.default,
    ops.scaled_linear.default,
    ops.scaled_gated_linear.default,
)
PLAIN = (ops.linear.default, ops.gated_linear.default, ops.linear_activation.default)
TOKEN_IDS = torch.randint(3, VOCAB_SIZE, (20,), generator=torch.manual_seed(1)).tolist()
OPTIONS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "attention_bias": True,
}

Tensors = dict[str, Tensor]
Encode = Callable[[str, Tensor], "tuple[Tensors, Tensor]"]
"""From a projection's path and weight: what the checkpoint holds of it, by names, and the numbers that stand there."""


@cache
def _plain(family: str, options: tuple[tuple[str, Any], ...]) -> Tensors:
    return dict(tiny_model(config_of(family, dict(options))).state_dict())


def plain(family: str = "llama", **options: Any) -> Tensors:
    """The weights of a tiny model."""
    return dict(_plain(family, tuple({**OPTIONS, **options}.items())))


def is_projection(key: str) -> bool:
    """Whether a key is of a weight that every form quantizes."""
    return key.endswith("_proj.weight")


def encode(
    tensors: Mapping[str, Tensor], one: Encode, which: Callable[[str], bool] = is_projection
) -> tuple[Tensors, Tensors]:
    """A checkpoint in which some weights are as `one` makes them, and the same with plain numbers."""
    stored, numbers = dict(tensors), dict(tensors)
    for key in filter(which, tensors):
        path = key.removesuffix(".weight")
        held, numbers[key] = one(path, stored.pop(key))
        stored |= {f"{path}.{name}": tensor for name, tensor in held.items()}
    return stored, numbers


def config(quantization: Mapping[str, Any] | None, family: str = "llama", **options: Any) -> PretrainedConfig:
    """The config of that model, with what it says of quantization."""
    found = config_of(family, {**OPTIONS, **options})
    if quantization is not None:
        found.quantization_config = dict(quantization)
    return found


def logits(built: Built, *, rounding: bool = True) -> Tensor:
    """Of every token; without `rounding`, inputs of quantized projections are not quantized."""
    program = built.program
    if not rounding:
        graph = continuous(built.graph_module)
        spec = ProgramSpec(VOCAB_SIZE, MAX_POSITIONS, cache_specs(graph.graph))
        program = Program(graph, built.tensors, kernel_table(), torch.device("cpu"), spec)
    return replay(program, TOKEN_IDS, (12, *[1] * 8))


def load(quantization: Mapping[str, Any], stored: Tensors, family: str = "llama", **options: Any) -> Built:
    """A program of a checkpoint."""
    return build(config(quantization, family, **options), MemorySource(stored), prefer="torch")


def counts(graph: Graph) -> tuple[int, int]:
    """How many projections are quantized, and how many are not."""
    return len(calls_of(graph, *QUANTIZED)), len(calls_of(graph, *PLAIN))


def check(
    quantization: Mapping[str, Any],
    one: Encode,
    *,
    plain_ones: int = 1,
    family: str = "llama",
    which: Callable[[str], bool] = is_projection,
    **options: Any,
) -> Built:
    """The logits of a checkpoint whose projections `one` encodes are those of the plain numbers.

    All but `plain_ones` projections, the head, run quantized.
    """
    stored, numbers = encode(plain(family, **options), one, which)
    built = load(quantization, stored, family, **options)
    expected = build(config(None, family, **options), MemorySource(numbers), prefer="torch")
    assert error(logits(built, rounding=False), logits(expected)) < 1e-5
    quantized, left = counts(built.graph_module.graph)
    assert quantized > 0
    assert left == plain_ones
    return built

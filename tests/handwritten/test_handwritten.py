"""Modules that never met transformers reach the same canonical operators, through patterns alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.export import trace_module
from autodeploy.graph.attributes import set_attribute
from autodeploy.pipeline import Stage, run_passes
from autodeploy.prepare import fitting_passes, prepare
from autodeploy.testing import assert_counts, relative_error
from autodeploy.weights import MemorySource
from tests.families import default_recipe, kernel_table
from tests.graphs import num_until
from tests.handwritten import convolutions, llamas, mixtures, older

ATTENTION = (
    "aten.softmax", "aten.scaled_dot_product_attention", "aten.matmul", "aten.bmm", "aten.einsum", "aten.masked_fill",
    "aten.where", "aten.triu", "aten.repeat_interleave", "aten.expand",
)  # fmt: skip
NORMS = ("aten.rsqrt", "aten.mean", "aten.pow", "aten.layer_norm", "aten.rms_norm", "aten.native_layer_norm")
ROTARY = ("aten.neg", "aten.view_as_complex", "aten.stack")
ACTIVATIONS = ("aten.silu", "aten.gelu", "aten.erf", "aten.tanh", "aten.relu", "aten.sigmoid")
PROJECTIONS = ("aten.linear", "aten.addmm", "aten.mm")
DECODER = (*ATTENTION, *NORMS, *ROTARY, *ACTIVATIONS, *PROJECTIONS)
"""What is left over when a pattern is missing."""

MIXTURE = ("aten.einsum", "aten.matmul", "aten.bmm", "aten.where", "aten.scatter", *ACTIVATIONS, *PROJECTIONS)

MIXED = {"expert_linear": 3, "gated_activation": 1, "linear": 1}

TOKENS = (torch.randint(llamas.VOCABULARY, (2, 9)),)
ROWS = (torch.randn(2, 9, llamas.WIDTH),)
LENGTH: Mapping[int, str] = {1: "T"}


@dataclass(frozen=True)
class Case:
    """A module, what it is called with, and the canonical operators that it must become."""

    module: type[nn.Module]
    inputs: tuple[Tensor, ...]
    counts: Mapping[str, int]
    absent: Sequence[str] = DECODER
    dynamic: Sequence[Mapping[int, str]] = (LENGTH,)
    layers: tuple[type[nn.Module], ...] = ()
    """For a decoder, the attention of each layer."""
    stage: Stage = Stage.CANONICALIZE
    """The stage after which they are counted."""

    def build(self) -> nn.Module:
        """The module with random weights, none of them at a value that hides mistakes."""
        torch.manual_seed(0)
        module = self.module(*(llamas.Layer(one()) for one in self.layers)).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return module


def decoder(attention: type[nn.Module], counts: Mapping[str, int], absent: Sequence[str] = DECODER) -> Case:
    """Two layers around `attention`, of which each gives `counts`."""
    one = {"rms_norm": 2, "gated_activation": 1, "attention": 1, "rope": 2, **counts}
    both = {name: 2 * count for name, count in one.items()}
    both["rms_norm"] += 1
    both["linear"] += 1
    return Case(llamas.Decoder, TOKENS, both, absent, layers=(attention, attention))


CASES: Mapping[str, Case] = {
    "llama in einsum": decoder(llamas.EinsumAttention, {"linear": 7}),
    "llama with sdpa": decoder(llamas.SdpaAttention, {"linear": 7}),
    "llama with one projection, split": decoder(llamas.SplitAttention, {"linear": 5}),
    "llama with complex numbers": decoder(
        llamas.ComplexAttention,
        {"linear": 7},
        absent=[name for name in DECODER if name != "aten.repeat_interleave"],  # an angle for both numbers of a pair
    ),
    "gemma": Case(
        llamas.Gemma,
        TOKENS,
        {"attention": 1, "rms_norm": 7, "rope": 2, "gated_activation": 1, "soft_cap": 1, "linear": 6},
    ),
    "gpt-2 with a triangle": Case(
        older.Gpt2Block,
        ROWS,
        {"attention": 1, "layer_norm": 2, "activate": 1, "linear": 4},
        dynamic=({},),
    ),
    "bert": Case(
        older.BertLayer,
        (*ROWS, torch.arange(9).expand(2, 9) < torch.tensor([[9], [6]])),
        {"attention": 1, "layer_norm": 2, "activate": 1, "linear": 6},
        dynamic=(LENGTH, LENGTH),
    ),
    "t5": Case(older.T5Layer, ROWS, {"attention": 1, "rms_norm": 2, "activate": 1, "linear": 6}),
    "vit": Case(older.VitBlock, ROWS, {"attention": 1, "layer_norm": 2, "activate": 1, "linear": 4}),
    "alibi": Case(older.AlibiBlock, ROWS, {"attention": 1, "layer_norm": 1, "linear": 2}),
    "mixture in a loop": Case(mixtures.LoopMixture, ROWS, MIXED, MIXTURE),
    "mixture under a mask": Case(mixtures.MaskedMixture, ROWS, MIXED, MIXTURE),
    "mixture of gathered weights": Case(mixtures.GatheredMixture, ROWS, MIXED, MIXTURE),
    "resnet": Case(
        convolutions.ResNetBlock,
        (torch.randn(2, convolutions.CHANNELS, 8, 8),),
        {"convolution": 2, "convolution_activation": 1, "activate": 1},
        absent=("aten.batch_norm", "aten.relu", "aten.conv2d"),
        dynamic=({0: "B"},),
        stage=Stage.FUSE,
    ),
}


@cache
def canonicalized(name: str) -> tuple[nn.Module, GraphModule]:
    """The module of a case and its graph after the stage that it is counted at, with its weights."""
    case = CASES[name]
    module = case.build()
    traced = trace_module(module, *case.inputs, dynamic=case.dynamic)
    source = MemorySource({})
    graph_module, context = prepare(traced, source, torch.device("cpu"), kernel_table())
    passes = fitting_passes(traced, default_recipe(traced.config))
    run_passes(graph_module, passes[: num_until(passes, case.stage)], context)
    for weight, tensor in context.weights.read(source).items():
        set_attribute(graph_module, weight, tensor)
    return module, graph_module


def other_inputs(case: Case) -> tuple[Tensor, ...]:
    """Fresh inputs, longer where that is allowed."""
    given = []
    for one, sizes in zip(case.inputs, case.dynamic, strict=True):
        shape = [size + 4 if dim in sizes else size for dim, size in enumerate(one.shape)]
        drawn = torch.randn(shape)
        given.append(drawn if one.is_floating_point() else (drawn.abs() * 20 % llamas.VOCABULARY).to(one.dtype))
    return tuple(given)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_the_same(name: str) -> None:
    module, graph_module = canonicalized(name)
    torch.manual_seed(1)
    given = other_inputs(CASES[name])
    wide = tuple(one.double() if one.is_floating_point() else one for one in given)
    with torch.no_grad():
        assert relative_error(graph_module(*given), deepcopy(module).double()(*wide)) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_it_becomes_canonical(name: str) -> None:
    _, graph_module = canonicalized(name)
    assert_counts(graph_module, CASES[name].counts, CASES[name].absent)

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import autodeploy as ad
from autodeploy.errors import UnsupportedError
from autodeploy.export import trace_module
from autodeploy.graph.attributes import set_attribute
from autodeploy.weights.source import MemorySource


class Block(nn.Module):
    """A feed-forward block with a norm, as a user writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
        out: Tensor = x + self.down(nn.functional.silu(self.up(h)))
        return out


class Fussy(nn.Module):
    """A module whose code depends on the numbers it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if x.sum() > 0 else x


def test_a_module_brings_its_weights_and_its_sizes() -> None:
    block = Block()
    traced = trace_module(block, torch.randn(1, 5, 16), dynamic=[{1: "T"}])
    assert set(traced.constants) == set(block.state_dict())
    (x,) = traced.graph_module.graph.find_nodes(op="placeholder")
    assert isinstance(x.meta["val"].shape[1], torch.SymInt)


def test_a_module_is_optimized_and_computes_the_same() -> None:
    block = Block()
    traced = ad.trace(block, torch.randn(1, 5, 16), dynamic=[{1: "T"}])
    optimized = ad.optimize(traced, gpu="cpu")
    assert optimized.spec is None
    targets = {str(node.target) for node in optimized.graph_module.graph.nodes}
    assert {
        "autodeploy.rms_norm.default",
        "autodeploy.linear.default",
        "autodeploy.linear_activation.default",
    } <= targets
    x = torch.randn(1, 9, 16)
    for name, tensor in optimized.weights.read(MemorySource({})).items():
        set_attribute(optimized.graph_module, name, tensor)
    with torch.no_grad():
        out, expected = optimized.graph_module(x).double(), block.double()(x.double())
    assert float((out - expected).norm() / expected.norm()) < 1e-6


def test_a_module_that_cannot_be_traced_is_named() -> None:
    with pytest.raises(UnsupportedError, match="Fussy cannot be traced: "):
        trace_module(Fussy(), torch.randn(3))

"""The operations that passes use on a plan, and sharding by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.fx import Graph, GraphModule
from transformers import LlamaConfig

from autodeploy.errors import InvariantError
from autodeploy.graph.attributes import get_attribute, set_attribute
from autodeploy.weights import Concat, MemorySource, Slice, Stored, WeightPlan, chunk, used_by
from autodeploy.weights.checkpoint import plan_weights


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({"q": torch.randn(4, 8), "k": torch.randn(2, 8), "v": torch.randn(2, 8)})


@pytest.fixture
def plan(source: MemorySource) -> WeightPlan:
    return WeightPlan({f"attn.{key}.weight": Stored.of(key, source) for key in "qkv"})


def graph_reading(*names: str) -> GraphModule:
    graph, root = Graph(), torch.nn.Module()
    for name in names:
        set_attribute(root, name, torch.nn.Parameter(torch.empty(2, device="meta")))
    nodes = [graph.get_attr(name) for name in names]
    graph.output(tuple(nodes))
    return GraphModule(root, graph)


def test_passes_add_entries(plan: WeightPlan, source: MemorySource) -> None:
    plan.concat([f"attn.{key}.weight" for key in "qkv"], 0, "attn.qkv.weight")
    plan.transpose("attn.qkv.weight", "attn.qkv.transposed")
    plan.slice("attn.qkv.weight", 0, 4, 6, "attn.k.again")
    plan.add_constant("inv_freq", torch.ones(3))
    tensors = plan.read(source)
    expected = torch.cat([source.read(key) for key in "qkv"])
    assert torch.equal(tensors["attn.qkv.weight"], expected)
    assert torch.equal(tensors["attn.qkv.transposed"], expected.T)
    assert torch.equal(tensors["attn.k.again"], source.read("k"))
    assert torch.equal(tensors["inv_freq"], torch.ones(3))


def test_a_name_cannot_mean_two_things(plan: WeightPlan) -> None:
    with pytest.raises(ValueError, match="already called"):
        plan.transpose("attn.q.weight", "attn.k.weight")


def test_an_unknown_name_gives_the_nearest(plan: WeightPlan) -> None:
    with pytest.raises(KeyError, match=r"did you mean 'attn\.q\.weight'"):
        plan["attn.q.wieght"]


def test_tied_weights_are_read_once_and_shared(plan: WeightPlan, source: MemorySource, recording: Any) -> None:
    plan["head.weight"] = plan["attn.q.weight"]
    reader = recording({key: source.read(key) for key in "qkv"})
    tensors = plan.read(reader)
    assert tensors["head.weight"].data_ptr() == tensors["attn.q.weight"].data_ptr()
    assert reader.elements["q"] == 32
    assert plan.tied() == [("attn.q.weight", "head.weight")]
    assert plan.nbytes == (32 + 16 + 16) * 4


def test_a_copy_is_independent(plan: WeightPlan) -> None:
    del plan.copy()["attn.q.weight"]
    assert "attn.q.weight" in plan


def test_prune_keeps_what_the_graph_reads(plan: WeightPlan) -> None:
    gm = graph_reading("attn.k.weight")
    assert used_by(gm) == ["attn.k.weight"]
    assert plan.prune(gm) == ["attn.q.weight", "attn.v.weight"]
    assert list(plan) == ["attn.k.weight"]


def test_a_weight_that_no_entry_gives_breaks_the_invariant(plan: WeightPlan) -> None:
    with pytest.raises(InvariantError, match=r"reads 'attn\.o\.weight'"):
        plan.check(graph_reading("attn.o.weight"))


def test_two_ranks_read_disjoint_halves_of_a_fused_llama(build: Any, recording: Any) -> None:
    config = LlamaConfig(**build.sizes)
    tensors = dict(build.real(config).state_dict())
    names = [f"model.layers.0.self_attn.{p}_proj.weight" for p in "qkv"]
    whole = plan_weights(build.meta(config), MemorySource(tensors))
    parts = [chunk(whole[name], 2, 0) for name in names]
    halves = []
    for rank in range(2):
        source = recording(tensors)
        fused = Concat(tuple(part[rank] for part in parts), 0)
        halves.append(fused.read(source))
        assert source.elements == {name: tensors[name].numel() // 2 for name in names}
    rows = [[tensors[name].chunk(2)[rank] for name in names] for rank in range(2)]
    assert all(torch.equal(half, torch.cat(row)) for half, row in zip(halves, rows, strict=True))

    output = whole["model.layers.0.self_attn.o_proj.weight"]
    source = recording(tensors)
    half = Slice(output, 1, 16, 32).read(source)
    assert torch.equal(half, tensors["model.layers.0.self_attn.o_proj.weight"][:, 16:])
    assert sum(source.elements.values()) == half.numel()


def test_attributes_at_dotted_names() -> None:
    gm = graph_reading("a.0.weight", "b")
    assert get_attribute(gm, "a.0.weight").shape == (2,)
    set_attribute(gm, "a.0.weight", torch.zeros(3))  # a buffer takes the place of a parameter
    assert dict(gm.named_buffers())["a.0.weight"].shape == (3,)
    with pytest.raises(AttributeError):
        get_attribute(gm, "a.0.bias")

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import Graph, GraphModule

from autodeploy import artifact
from autodeploy.artifact import Artifact
from autodeploy.graph.attributes import set_attribute
from autodeploy.weights import Cast, Concat, MemorySource, Stored, WeightPlan

aten = torch.ops.aten


def small_graph() -> GraphModule:
    """Joined projections of an embedding, cut in two and multiplied, then the tied head."""
    graph, root = Graph(), torch.nn.Module()
    for name, shape in {"embed.weight": (10, 4), "layers.0.qk.weight": (8, 4), "head.weight": (10, 4)}.items():
        set_attribute(root, name, torch.nn.Parameter(torch.empty(shape, device="meta")))
    ids = graph.placeholder("input_ids")
    hidden = graph.call_function(aten.embedding.default, (graph.get_attr("embed.weight"), ids))
    tokens = graph.call_function(aten.sym_size.int, (ids, 0))
    both = graph.call_function(torch.ops.autodeploy.linear.default, (hidden, graph.get_attr("layers.0.qk.weight")))
    both.meta["backend"] = "torch"
    both.meta["val"] = torch.empty(3, 8, device="meta")
    parts = graph.call_function(aten.split.Tensor, (both, 4, -1))
    first, second = (graph.call_function(operator.getitem, (parts, index)) for index in (0, 1))
    product = graph.call_function(aten.mul.Tensor, (first, second))
    shaped = graph.call_function(aten.view.default, (product, [tokens, 4]))
    clamped = graph.call_function(aten.clamp.default, (shaped,), {"max": float("inf")})
    cast = graph.call_function(aten.to.dtype, (clamped, torch.float32))
    graph.output((graph.call_function(aten.linear.default, (cast, graph.get_attr("head.weight"))),))
    return GraphModule(root, graph)


@pytest.fixture
def graph() -> GraphModule:
    return small_graph()


@pytest.fixture
def source() -> MemorySource:
    torch.manual_seed(0)
    return MemorySource({"embed": torch.randn(10, 4), "q": torch.randn(4, 4), "k": torch.randn(4, 4).bfloat16()})


@pytest.fixture
def plan(source: MemorySource) -> WeightPlan:
    embed = Stored.of("embed", source)
    joined = Concat((Stored.of("q", source), Cast(Stored.of("k", source), torch.float32)), 0)
    entries = {"embed.weight": embed, "layers.0.qk.weight": joined, "head.weight": embed, "unused": embed}
    return WeightPlan(entries)


Save = Callable[..., Artifact]


@pytest.fixture
def save(graph: GraphModule, plan: WeightPlan, source: MemorySource) -> Save:
    def save(path: Path, **changes: Any) -> Artifact:
        fields: dict[str, Any] = {
            "name": "tiny",
            "graph": graph,
            "weights": plan,
            "source": source,
            "config": {"model_type": "llama"},
            "dtype": "float32",
            "devices": ["cpu"],
            "recipe": {"name": "default"},
            "history": [{"name": "fuse_qkv", "changes": 1}],
            "assets": {"tokenizer.json": b"{}"},
        }
        return artifact.save(path, **(fields | changes))

    return save


@pytest.fixture
def tamper() -> Callable[..., None]:
    """Edit a file of an artifact and make the manifest agree, as an attacker would."""

    def tamper(path: Path, name: str, content: bytes) -> None:
        (path / name).write_bytes(content)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"][name] = {"size": len(content), "sha256": sha256(content).hexdigest()}
        (path / "manifest.json").write_text(json.dumps(manifest))

    return tamper

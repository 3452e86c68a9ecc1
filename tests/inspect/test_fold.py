from __future__ import annotations

import operator
from collections import Counter

import torch
from torch import nn
from torch.fx import Graph

import autodeploy as ad
from autodeploy.export import trace_model
from autodeploy.inspect.fold import fold_graph
from autodeploy.inspect.kinds import Kind
from autodeploy.inspect.model import GraphView, Group, Operation
from autodeploy.testing.families import config_with
from tests.inspect.graphs import optimized, traced


def view(num_layers: int = 3) -> GraphView:
    return fold_graph(optimized(num_layers).graph_module.graph, "llama")


def child(group: Group, label: str) -> Group:
    return next(one for one in group.children if isinstance(one, Group) and one.label == label)


def outline(group: Group) -> list[str]:
    return [one.label if isinstance(one, Group) else one.operator for one in group.children]


def test_alike_layers_are_one_group() -> None:
    layers = child(fold_graph(traced().graph_module.graph, "llama").root, "layers 0-2")
    assert (layers.repeats, layers.layers, layers.module) == (3, ("0", "1", "2"), "model.layers.*")
    assert outline(layers) == [
        "input_layernorm", "self_attn", "aten.add", "post_attention_layernorm", "mlp", "aten.add",
    ]  # fmt: skip
    assert {one.repeats for one in layers.operations()} == {3}


def test_a_layer_that_differs_stands_alone() -> None:
    root = view().root
    assert outline(root) == [
        "inputs", "embedding", "rotary_tables", "layer 0", "layers 1-2", "add_rms_norm", "lm_head", "output",
    ]  # fmt: skip
    assert outline(child(root, "layer 0"))[0] == "rms_norm"
    assert outline(child(root, "layers 1-2"))[0] == "add_rms_norm"


def test_the_last_layer_stands_alone_where_it_computes_fewer_rows() -> None:
    folded = fold_graph(ad.optimize(traced(4), gpu="cpu").graph_module.graph, "llama")
    assert [one for one in outline(folded.root) if one.startswith("layer")] == ["layer 0", "layers 1-2", "layer 3"]


def test_kinds_of_layers_that_take_turns_fold_into_their_period() -> None:
    types = [*["sliding_attention"] * 2, "full_attention"] * 2
    config = config_with("gemma3_text", {"num_hidden_layers": 6, "layer_types": types, "sliding_window": 8})
    folded = fold_graph(trace_model(config, torch.float32).graph_module.graph, "gemma")
    layers = child(folded.root, "layers 0-5")
    assert (layers.repeats, outline(layers)) == (2, ["layers 0, 1, 3, 4", "layers 2, 5"])
    assert [one.repeats for one in layers.children if isinstance(one, Group)] == [2, 1]
    assert {one.repeats for one in child(layers, "layers 0, 1, 3, 4").operations()} == {4}


def test_every_call_has_one_place() -> None:
    graph = optimized().graph_module.graph
    shown = Counter(name for one in view().operations() for name in one.names)
    calls = {node.name for node in graph.nodes if node.op not in ("get_attr",) and node.target is not operator.getitem}
    assert shown.keys() == calls
    assert set(shown.values()) == {1}


def test_an_operation_says_where_it_comes_from_and_what_it_gives() -> None:
    (norm,) = (one for one in view().operations() if one.label == "post_attention_layernorm" and one.repeats == 1)
    assert (norm.operator, norm.kind, norm.dtype) == ("add_rms_norm", Kind.NORM, "f32")
    assert norm.results == ("f32[1, T, 64]", "f32[1, T, 64]")
    assert norm.module == "model.layers.0.post_attention_layernorm"
    assert norm.weights == ("model.layers.0.post_attention_layernorm.weight[64]",)
    assert norm.weight_bytes == 256
    assert norm.source.startswith("modeling_llama.py:")
    assert norm.text.startswith("add_rms_norm_default = add_rms_norm(embedding_default, ")


def test_values_flow_between_operations_and_on_to_the_next_layer() -> None:
    folded = view()
    by_id = {one.id: one for one in folded.operations()}
    order = {identity: at for at, identity in enumerate(by_id)}
    assert all(order[flow.source] < order[flow.target] for flow in folded.flows if not flow.carried)
    carried = {(by_id[one.source].label, by_id[one.target].label) for one in folded.flows if one.carried}
    assert carried == {("down_proj", "input_layernorm"), ("post_attention_layernorm", "input_layernorm")}


def test_inputs_of_all_layers_are_one() -> None:
    inputs = child(view().root, "inputs")
    names = {one.label: one.repeats for one in inputs.children if isinstance(one, Operation)}
    assert names["key_pages_*"] == 3
    assert names["input_ids"] == 1


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = x + self.down(torch.relu(self.up(x)))
        return result


def test_a_module_of_a_users_needs_no_layers() -> None:
    folded = fold_graph(ad.trace(Mlp(), torch.randn(3, 8)).graph_module.graph, "mlp")
    assert [one.operator for one in folded.operations()] == [
        "placeholder", "aten.linear", "aten.relu", "aten.linear", "aten.add", "output",
    ]  # fmt: skip


def test_layers_without_modules_are_found_by_their_structure() -> None:
    graph = Graph()
    copied = graph.graph_copy(optimized(4).graph_module.graph, {})
    graph.output(copied)
    for node in graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key == "val"}
        if node.op == "get_attr":
            node.target = f"weight_{node.name}"
    (layers,) = (one for one in fold_graph(graph, "bare").root.groups() if one.repeats > 1)
    assert layers.repeats == 3


class Square(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu() * x.relu()


def test_calls_that_are_alike_are_no_layers() -> None:
    folded = fold_graph(ad.trace(Square(), torch.randn(3, 8)).graph_module.graph, "square")
    assert [(one.operator, one.repeats) for one in folded.operations()] == [
        ("placeholder", 1), ("aten.relu", 1), ("aten.relu", 1), ("aten.mul", 1), ("output", 1),
    ]  # fmt: skip

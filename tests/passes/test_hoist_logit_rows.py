"""The end of a model is computed for the rows whose logits are wanted, and those are the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.fx import Graph, Node

from autodeploy.graph.nodes import calls_of, value
from autodeploy.graph.selection import without_selection
from autodeploy.program import Program
from autodeploy.testing.families import VOCAB_SIZE, tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests.families import Built, build, error, step_of

ops = torch.ops.autodeploy
PROJECTIONS = (ops.linear.default, ops.linear_activation.default, ops.gated_linear.default)
MODELS = ("llama", "gpt2", "gemma3_text", "phi3", "gpt_neox", "mixtral")


def built(model_type: str, **values: str) -> Built:
    config = tiny_config(model_type)
    return build(config, MemorySource(dict(tiny_model(config).state_dict())), values=values)


def logits(program: Program, tokens: list[int], rows: list[int]) -> torch.Tensor:
    step = replace(step_of(tokens, 0, 4), logit_rows=torch.tensor(rows, dtype=torch.int64))
    return program.forward(step, program.new_cache(-(-len(tokens) // 4), 4))


def rows_of(node: Node) -> str:
    return str(value(node).shape[1])


def behind_the_last_attention(graph: Graph) -> list[Node]:
    nodes = list(graph.nodes)
    last = max(i for i, node in enumerate(nodes) if "paged_attention" in str(node.target))
    projections = {
        ops.linear.default,
        ops.linear_activation.default,
        ops.gated_linear.default,
        ops.scaled_linear.default,
    }
    return [node for node in nodes[last:] if node.target in projections]


@pytest.mark.parametrize("model_type", MODELS)
def test_logits_of_some_rows_are_those_of_all(model_type: str) -> None:
    program = built(model_type).program
    tokens = torch.randint(3, VOCAB_SIZE, (11,)).tolist()
    everything = logits(program, tokens, list(range(11)))
    some = [10, 3, 3, 0]
    assert error(logits(program, tokens, some), everything[some]) <= 1e-5
    assert logits(program, tokens, []).shape == (0, VOCAB_SIZE)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_step_of_all_rows_selects_none(model_type: str) -> None:
    """Which is seen by rows that would be others."""
    made = built(model_type)
    tokens = torch.randint(3, VOCAB_SIZE, (11,)).tolist()
    everything = logits(made.program, tokens, list(range(11)))
    assert torch.equal(logits(made.program, tokens, [0] * 11), everything)
    assert not calls_of(without_selection(made.graph_module.graph), torch.ops.aten.index_select.default)
    assert calls_of(made.graph_module.graph, torch.ops.aten.index_select.default), "the graph itself stays as it is"


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text"])
def test_every_projection_behind_the_last_attention_sees_those_rows(model_type: str) -> None:
    graph = built(model_type).graph_module.graph
    wanted = next(node for node in graph.nodes if node.target == "logit_rows")
    found = behind_the_last_attention(graph)
    assert len(found) >= 4
    assert {rows_of(node) for node in found} == {str(value(wanted).shape[0])}
    assert len(calls_of(graph, torch.ops.aten.index_select.default)) == 2, "of what attention found, and the residual"


def test_quantized_inputs_are_quantized_of_those_rows() -> None:
    program = built("llama", **{"passes.mark_precision.scheme": "fp8"}).program
    tokens = torch.randint(3, VOCAB_SIZE, (9,)).tolist()
    everything = logits(program, tokens, list(range(9)))
    assert error(logits(program, tokens, [8, 1]), everything[[8, 1]]) <= 1e-5
    assert logits(program, tokens, []).shape == (0, VOCAB_SIZE)

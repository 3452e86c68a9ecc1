"""The layer of a graph as it is timed: where it begins, what it is given, and that it runs on random numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Graph

import autodeploy as ad
from autodeploy import ops
from autodeploy.kernels import KernelTable
from autodeploy.kernels.reference import kernels as references
from autodeploy.testing import tiny_config
from autodeploy.tuning.attention import ATTENTIONS
from autodeploy.tuning.layer import Layer, repeated_layer, why_untimed
from autodeploy.tuning.layer_operands import num_copies, random_given
from autodeploy.tuning.layer_time import chained, runs_of

TABLE = KernelTable(replace(kernel, waits=False) for kernel in references())
"""The references, as if a graph could hold them."""
ROWS = 3


def graph_of(family: str = "llama", num_layers: int = 4, quantize: str | None = None, **changes: Any) -> Graph:
    """The graph of a small model for an H200, before LOWER."""
    config = tiny_config(family)
    config.update({"num_hidden_layers": num_layers, **changes})
    graph = ad.optimize(ad.trace(config, dtype="bf16"), gpu="h200", quantize=quantize).graph_module.graph
    for node in graph.nodes:
        node.meta.pop("backend", None)
    return graph


@pytest.fixture(scope="module", params=[None, "fp8"])
def layer(request: pytest.FixtureRequest) -> Layer:
    """From the first attention of a model to the second."""
    found = repeated_layer(graph_of(quantize=request.param))
    assert found is not None
    return found


def run(layer: Layer, given: list[dict[Any, Any]]) -> dict[Any, Any]:
    return chained(layer, runs_of(layer, TABLE, {}, "cpu"), given)()


def test_a_layer_goes_from_one_attention_to_the_next(layer: Layer) -> None:
    first, second = (next(call for call in one if call.target in ATTENTIONS) for one in (layer.calls, layer.following))
    assert layer.calls[0] is first
    assert second not in layer.calls
    assert set(second.args[:3]) <= set(layer.calls), "it ends with the next one's queries, keys and values"
    assert len(layer.sites) == len(set(layer.sites.values())) == 5
    assert why_untimed(layer, TABLE, "cpu") is None


def test_it_runs_on_random_numbers_of_its_own(layer: Layer) -> None:
    """Each copy has other weights and pages, and the same tables."""
    first, second = given = random_given(layer, ROWS, 2, "cpu")
    stored = [node for node in layer.given if node.op == "get_attr" or "pages" in str(node.target)]
    assert len(stored) > 6
    assert not any(torch.equal(first[node].float(), second[node].float()) for node in stored)
    known = run(layer, given)
    (attention,) = (call for call in layer.calls if call.target in ATTENTIONS)
    assert known[attention].shape[0] == ROWS
    made = [known[call] for call in layer.calls if isinstance(known[call], Tensor)]
    assert all(bool(one.float().isfinite().all()) for one in made)
    assert all(0.0 < float(one.float().std()) < 1e4 for one in made)


def test_a_layer_takes_what_the_one_before_hands_on(layer: Layer) -> None:
    """What the second of two layers makes depends on the first one's weights, and not on what it was given itself."""
    given = random_given(layer, ROWS, 2, "cpu")
    assert len(layer.handed_on) == 6, "queries, keys, values, their angles and the residual"
    last = layer.handed_on[next(iter(layer.handed_on))]
    expected = run(layer, [dict(one) for one in given])[last].clone()
    for node in layer.handed_on:
        given[1][node] = torch.zeros_like(given[1][node])
    assert torch.equal(run(layer, [dict(one) for one in given])[last], expected)
    matmul = next(call for call in layer.sites if call.target not in ATTENTIONS)
    weight = next(node for node in matmul.all_input_nodes if node.op == "get_attr")
    given[0][weight] = torch.zeros_like(given[0][weight])
    assert not torch.equal(run(layer, given)[last], expected)


def test_weights_are_as_many_as_flush_the_cache(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_copies(layer, 8) == 8
    monkeypatch.setattr("autodeploy.tuning.layer_operands.CACHE_BYTES", 3 * layer.weight_bytes - 1)
    assert num_copies(layer, 8) == 3


def test_equal_layers_of_two_models_have_one_key() -> None:
    keys = [
        getattr(repeated_layer(graph_of(num_layers=layers, vocab_size=vocab, rms_norm_eps=eps)), "key", None)
        for layers, vocab, eps in ((4, 96, 1e-6), (5, 128, 1e-6), (4, 96, 1e-5))
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_graph_without_repeated_attention_has_no_layer() -> None:
    assert repeated_layer(Graph()) is None
    assert repeated_layer(graph_of(num_layers=1)) is None


def test_kinds_of_layers_that_take_turns_are_timed_together() -> None:
    kinds = ["sliding_attention", "full_attention"]
    layer = repeated_layer(graph_of("gpt_oss", 6, layer_types=kinds * 3))
    assert layer is not None
    assert [call.target in ATTENTIONS for call in layer.calls].count(True) == 2
    assert why_untimed(layer, TABLE, "cpu") is None
    assert len({site for call, site in layer.sites.items() if call.target in ATTENTIONS}) == 2
    assert isinstance(run(layer, random_given(layer, ROWS, 1, "cpu")), dict)


def test_what_cannot_run_on_random_numbers_is_declined(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    without = KernelTable(kernel for kernel in TABLE if kernel.op is not ops.quantize and kernel.op is not ops.rms_norm)
    assert "no kernel of cpu serves autodeploy." in str(why_untimed(layer, without, "cpu"))
    assert why_untimed(layer, KernelTable(references()), "cpu") == "torch.rope_paged_attention waits for the device"
    monkeypatch.setattr("autodeploy.tuning.layer.MOST_BYTES", 1)
    assert "its weights take" in str(why_untimed(layer, TABLE, "cpu"))


def test_numbers_that_count_something_are_not_drawn(layer: Layer) -> None:
    """A node that no tuned call reads is drawn only if it is of floats."""
    graph = Graph()
    table = graph.placeholder("page_table")
    table.meta["val"] = next(node.meta["val"] for node in layer.given if node.target == "page_table")
    copy = graph.call_function(torch.ops.aten.clone.default, (table,))
    assert why_untimed(Layer((copy,), ()), TABLE, "cpu") == "page_table counts something"

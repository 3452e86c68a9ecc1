from __future__ import annotations

import pytest
import torch

from autodeploy.errors import UnsupportedError
from autodeploy.export import Traced, trace_model
from autodeploy.graph.nodes import arguments, calls_of
from autodeploy.testing.families import FAMILIES, MAX_POSITIONS, OTHER_FAMILIES, VOCAB_SIZE
from tests.families import REFUSED, config_of

attention_op = torch.ops.autodeploy.attention.default
QUICK = ("llama", "gemma3_text", "gpt2", "phi3", "opt")


def trace(family: str, **options: object) -> Traced:
    given = {**FAMILIES.get(family, OTHER_FAMILIES.get(family, {})), **options}
    return trace_model(config_of(family, given), torch.float32)


@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in [*FAMILIES, *OTHER_FAMILIES]],
)
def test_a_family_traces_without_weights(family: str) -> None:
    traced = trace_model(config_of(family, {**FAMILIES, **OTHER_FAMILIES}[family]), torch.bfloat16)
    graph = traced.graph_module.graph
    assert len(calls_of(graph, attention_op)) == 2
    inputs = graph.find_nodes(op="placeholder")
    assert [node.target for node in inputs] == ["input_ids", "position_ids"]
    tokens = inputs[0].meta["val"].shape[1]
    (logits,) = (node.meta["val"] for node in graph.output_node().all_input_nodes)
    assert isinstance(tokens, torch.SymInt)
    assert (str(logits.shape[1]), logits.shape[2], logits.dtype) == (str(tokens), VOCAB_SIZE, torch.bfloat16)
    assert all(parameter.device.type == "meta" for parameter in traced.model.parameters())
    assert all(tensor.device.type == "meta" for tensor in traced.graph_module.state_dict().values())


def test_weights_are_named_as_in_the_checkpoint() -> None:
    traced = trace("llama")
    used = {str(node.target) for node in traced.graph_module.graph.find_nodes(op="get_attr")}
    assert used - set(traced.constants) == set(traced.model.state_dict())


def test_constants_are_real_and_in_no_checkpoint() -> None:
    traced = trace("gemma")
    assert set(traced.constants) & set(traced.model.state_dict()) == set()
    frequencies = [tensor for name, tensor in traced.constants.items() if name.endswith(".inv_freq")]
    assert [tensor.device.type for tensor in frequencies] == ["cpu"]
    assert frequencies[0][0] == 1.0
    assert any("embed_scale" in name for name in traced.constants)


@pytest.mark.parametrize(
    ("family", "options", "windows"),
    [
        ("llama", {}, [None, None]),
        ("mistral", {"sliding_window": None}, [None, None]),
        ("mistral", {"sliding_window": 8}, [8, 8]),
        ("gemma3_text", {}, [8, None]),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 8}, [None, None]),
    ],
)
def test_the_window_of_each_layer_is_on_its_attention(
    family: str, options: dict[str, object], windows: list[int | None]
) -> None:
    found = calls_of(trace(family, **options).graph_module.graph, attention_op)
    assert [arguments(node)["window"] for node in found] == windows


def test_scale_and_soft_cap_are_on_the_attention() -> None:
    (first, _) = calls_of(
        trace("gemma2", query_pre_attn_scalar=64, attn_logit_softcapping=30.0).graph_module.graph, attention_op
    )
    assert (arguments(first)["scale"], arguments(first)["softcap"]) == (0.125, 30.0)


def test_rotary_scaling_that_depends_on_the_length_limits_the_length() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    assert trace("llama", rope_parameters=dynamic, max_position_embeddings=48).max_model_len == 48
    factors = {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 24}
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    assert trace("phi3", rope_parameters=longrope, original_max_position_embeddings=24).max_model_len == 24
    assert trace("llama").max_model_len is None
    assert trace("llama").config.max_position_embeddings == MAX_POSITIONS


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_traced_is_refused_in_one_sentence(family: str) -> None:
    options, sentence = REFUSED[family]
    with pytest.raises(UnsupportedError, match=sentence) as caught:
        trace_model(config_of(family, options), torch.float32)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_no_causal_language_model_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="vit"):
        trace_model(config_of("vit", {}), torch.float32)

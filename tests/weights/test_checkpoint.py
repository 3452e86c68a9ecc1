"""A model's weights are found where transformers finds them, value for value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen3MoeConfig,
)
from transformers.core_model_loading import Chunk, Interleave, PermuteForRope, Transpose

from autodeploy.errors import CheckpointError, UnsupportedError
from autodeploy.weights import MemorySource, RandomSource, SafetensorsSource, Stored
from autodeploy.weights.checkpoint import natural_order, plan_weights
from autodeploy.weights.conversion import OPERATIONS, Target


def configs(sizes: dict[str, Any]) -> list[PretrainedConfig]:
    gpt_neox = {name: value for name, value in sizes.items() if name != "num_key_value_heads"}
    return [
        LlamaConfig(**sizes, tie_word_embeddings=True),
        MixtralConfig(**sizes, num_local_experts=3),
        Qwen3MoeConfig(**sizes, num_experts=12, moe_intermediate_size=24),
        GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=32),
        GPTNeoXConfig(**gpt_neox),
        Gemma3TextConfig(**sizes, head_dim=8),
        Phi3Config(**sizes),
    ]


@pytest.mark.parametrize("index", range(7))
def test_equals_what_transformers_loads(tmp_path: Path, build: Any, index: int) -> None:
    config = configs(build.sizes)[index]
    build.real(config).save_pretrained(tmp_path)  # writes the original layout: experts apart
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    meta = build.meta(config, torch.bfloat16)
    source = SafetensorsSource(tmp_path)
    plan = plan_weights(meta, source)
    tensors = plan.read(source)
    assert list(plan) == list(expected)
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    assert plan.unexpected == ()
    tied = getattr(config, "tie_word_embeddings", False)
    assert bool(plan.tied()) == tied


def test_one_expert_is_read_alone(tmp_path: Path, build: Any) -> None:
    config = MixtralConfig(**build.sizes, num_local_experts=3)
    build.real(config).save_pretrained(tmp_path)
    keys = SafetensorsSource(tmp_path).keys()
    plan = plan_weights(build.meta(config), SafetensorsSource(tmp_path))
    leaves = list(plan["model.layers.0.mlp.experts.gate_up_proj"].leaves())
    assert len(leaves) == 6
    assert all(isinstance(leaf, Stored) and leaf.key in keys and ".experts." in leaf.key for leaf in leaves)


def test_gpt2_files_without_the_prefix(tmp_path: Path, build: Any) -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=32)
    state = build.real(config).state_dict()
    bare = {name.removeprefix("transformer."): value for name, value in state.items() if name != "lm_head.weight"}
    bare["h.0.attn.masked_bias"] = torch.tensor(-1e4)  # a buffer of older files
    bare["h.0.extra"] = torch.zeros(1)
    source = MemorySource(bare)
    plan = plan_weights(build.meta(config), source)
    assert all(torch.equal(plan.read(source)[name], value) for name, value in state.items())
    assert plan.unexpected == ("h.0.extra",)


def test_a_prefix_too_many(build: Any) -> None:
    config = LlamaConfig(**build.sizes)
    state = build.real(config).model.state_dict()
    base = build.meta(config).model
    source = MemorySource({f"model.{name}": value for name, value in state.items()})
    plan = plan_weights(base, source)
    assert all(torch.equal(plan.read(source)[name], value) for name, value in state.items())


def test_legacy_norm_names(build: Any) -> None:
    config = GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64, n_positions=32)
    model = build.meta(config)
    model.transformer.LayerNorm = model.transformer.ln_f
    state = RandomSource.of(build.real(config))
    renamed = {
        name.replace("ln_f.weight", "LayerNorm.gamma").replace("ln_f.bias", "LayerNorm.beta"): name
        for name in state.keys()  # noqa: SIM118
    }
    del model.transformer.ln_f
    source = MemorySource({new: state.read(old) for new, old in renamed.items()})
    plan = plan_weights(model, source)
    assert plan["transformer.LayerNorm.weight"] == Stored.of("transformer.LayerNorm.gamma", source)


@pytest.mark.parametrize("kept", ["lm_head.weight", "model.embed_tokens.weight"])
def test_either_of_two_tied_weights_is_enough(build: Any, kept: str) -> None:
    config = LlamaConfig(**build.sizes, tie_word_embeddings=True)
    state = dict(build.real(config).state_dict())
    dropped = {"lm_head.weight", "model.embed_tokens.weight"} - {kept}
    source = MemorySource({name: value for name, value in state.items() if name not in dropped})
    plan = plan_weights(build.meta(config), source)
    assert plan.tied() == [("model.embed_tokens.weight", "lm_head.weight")]
    assert torch.equal(plan.read(source)["lm_head.weight"], state["lm_head.weight"])


def test_tied_weights_that_differ_stay_apart_as_in_transformers(build: Any) -> None:
    config = LlamaConfig(**build.sizes, tie_word_embeddings=True)
    state = {name: value.clone() for name, value in build.real(config).state_dict().items()}
    assert plan_weights(build.meta(config), MemorySource(state)).tied() != []
    state["lm_head.weight"] += 1
    assert plan_weights(build.meta(config), MemorySource(state)).tied() == []


def test_random_weights_need_no_checkpoint(build: Any) -> None:
    model = build.meta(MixtralConfig(**build.sizes, num_local_experts=3))
    source = RandomSource.of(model)
    tensors = plan_weights(model, source).read(source)
    assert {name: value.shape for name, value in tensors.items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }


def test_computed_buffers_are_constants(build: Any) -> None:
    config = LlamaConfig(**build.sizes)
    model = build.real(config).to("cpu")
    source = MemorySource(dict(model.state_dict()))
    plan = plan_weights(model, source)
    assert torch.equal(plan.read(source)["model.rotary_emb.inv_freq"], model.model.rotary_emb.inv_freq)


def llama(build: Any) -> tuple[Any, dict[str, Tensor]]:
    config = LlamaConfig(**build.sizes)
    return build.meta(config), dict(build.real(config).state_dict())


def test_a_wrong_shape_names_the_tensor_and_both_shapes(build: Any) -> None:
    model, state = llama(build)
    state["model.norm.weight"] = torch.ones(16)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has shape \(16,\) .* \(32,\) in the model"):
        plan_weights(model, MemorySource(state))


def test_a_missing_tensor_names_the_nearest_key(build: Any) -> None:
    model, state = llama(build)
    state["model.norm.wieght"] = state.pop("model.norm.weight")
    with pytest.raises(CheckpointError, match=r"lacks 'model\.norm\.weight' .*did you mean 'model\.norm\.wieght'"):
        plan_weights(model, MemorySource(state))


def test_a_missing_expert_is_an_error(tmp_path: Path, build: Any) -> None:
    config = MixtralConfig(**build.sizes, num_local_experts=3)
    build.real(config).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[next(key for key in tensors if ".experts.1." in key)]
    with pytest.raises(CheckpointError, match="experts"):
        plan_weights(build.meta(config), MemorySource(tensors))


def test_a_quantized_checkpoint_is_not_taken_for_numbers(build: Any) -> None:
    model, state = llama(build)
    name = "model.layers.0.mlp.up_proj.weight"
    state[name] = state[name].to(torch.float8_e4m3fn)
    with pytest.raises(UnsupportedError, match=r"up_proj\.weight is quantized in the checkpoint \(float8_e4m3fn\)"):
        plan_weights(model, MemorySource(state))


def test_an_unknown_conversion_is_named(build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = MixtralConfig(**build.sizes, num_local_experts=3)
    build.real(config).save_pretrained(tmp_path)
    known = {name: apply for name, apply in OPERATIONS.items() if name != "Concatenate"}
    monkeypatch.setattr("autodeploy.weights.conversion.OPERATIONS", known)
    with pytest.raises(UnsupportedError, match="converts it with Concatenate, which we do not know"):
        plan_weights(build.meta(config), SafetensorsSource(tmp_path))


@pytest.mark.parametrize(
    ("operation", "targets"),
    [
        (Chunk(dim=0), ["q", "k"]),
        (Interleave(dim=0), ["y"]),
        (Interleave(dim=1, inverse=True), ["y"]),
        (Transpose(0, 1), ["y"]),
        (PermuteForRope(permute_layer_names=["x"]), ["x"]),
    ],
)
def test_each_conversion_equals_transformers(operation: Any, targets: list[str]) -> None:
    config = LlamaConfig(num_attention_heads=2, hidden_size=8)
    tensor = torch.randn(8, 6)
    expected = operation.convert(
        {"x": [tensor]}, source_patterns=["x"], target_patterns=targets, config=config, model=None, full_layer_name="y"
    )
    source = MemorySource({"x": tensor})
    target = Target("y", targets, ["x"], config, {})
    values = OPERATIONS[type(operation).__name__](operation, {"x": [Stored.of("x", source)]}, target)
    assert list(values) == list(expected)
    assert all(torch.equal(values[name][0].read(source), expected[name]) for name in expected)


def test_experts_are_ordered_by_number() -> None:
    keys = ["experts.10.w", "experts.2.w", "experts.1.w", "shard_11", "shard_2"]
    assert sorted(keys, key=natural_order) == ["experts.1.w", "experts.2.w", "experts.10.w", "shard_2", "shard_11"]


def test_a_folder_with_an_index(tmp_path: Path, build: Any) -> None:
    config = LlamaConfig(**build.sizes)
    state = {name: value.clone() for name, value in build.real(config).state_dict().items()}
    names = sorted(state)
    groups = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, group in groups.items():
        save_file({name: state[name] for name in group}, tmp_path / file)
    weight_map = {name: file for file, group in groups.items() for name in group}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    source = SafetensorsSource(tmp_path)
    tensors = plan_weights(build.meta(config), source).read(source)
    assert all(torch.equal(tensors[name], value) for name, value in state.items())

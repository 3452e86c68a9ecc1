"""What it takes to run tiny models as programs, and which variants of them must work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from transformers import PretrainedConfig

from autodeploy.choosing import Recipe, resolve_settings
from autodeploy.export import Traced, trace_model
from autodeploy.hardware import choose_gpu
from autodeploy.kernels import KernelTable, builtin_kernels, reference
from autodeploy.pipeline import Context, Pass, PassReport, run_passes
from autodeploy.program import Program, ProgramSpec, cache_specs
from autodeploy.runtime.model import StepInputs
from autodeploy.testing.families import MAX_POSITIONS, VOCAB_SIZE, Options, config_with, tiny_config
from autodeploy.weights import MemorySource, WeightPlan
from autodeploy.weights.checkpoint import cache_scales, plan_weights
from autodeploy.weights.source import TensorSource


def config_of(model_type: str, options: Options | None = None) -> PretrainedConfig:
    """A tiny config with the family's own options, or with exactly these."""
    return tiny_config(model_type) if options is None else config_with(model_type, options)


@cache
def kernel_table(device: str = "cpu") -> KernelTable:
    return builtin_kernels(device)


UNTUNED: Mapping[str, Any] = MappingProxyType({"passes.tune_kernels": False})
"""Values with which a GPU's table decides: to time every kernel of a tiny model takes ten seconds."""
REFERENCES = KernelTable(reference.kernels())
"""No kernels but the references: what every machine makes of a graph, with a compiler or without."""


def default_recipe(config: PretrainedConfig, **values: Any) -> Recipe:
    """The default recipe for the CPU."""
    return resolve_settings(config, choose_gpu("cpu"), recipe="auto", workload="balanced", values=values)


def default_passes(config: PretrainedConfig, **values: Any) -> list[Pass]:
    """The passes of the default recipe for the CPU."""
    return [one for _, one in default_recipe(config, **values).passes]


def context_of(
    traced: Traced, source: TensorSource, device: str = "cpu", kernels: KernelTable | None = None, **options: Any
) -> Context:
    """What the passes know of a traced model whose weights come from `source`; with the device's kernels by default."""
    weights = plan_weights(traced.model, source)  # type: ignore[arg-type]
    for name, tensor in traced.constants.items():
        if name not in weights:
            weights.add_constant(name, tensor)
    weights.prune(traced.graph_module)
    return Context(
        traced.config,
        weights,
        torch.device(device),
        kernels=kernels or kernel_table(device),
        cache_scales=cache_scales(source),
        **options,
    )


@dataclass(frozen=True)
class Built:
    """A program and how it came to be."""

    program: Program
    graph_module: GraphModule
    weights: WeightPlan
    tensors: Mapping[str, Tensor]
    history: Sequence[PassReport]


def build(
    config: PretrainedConfig,
    source: MemorySource,
    *,
    prefer: str | None = None,
    device: str = "cpu",
    values: Mapping[str, Any] = MappingProxyType({}),
) -> Built:
    """Trace, optimize and load a model; `values` are what `--set` takes."""
    traced = trace_model(config, torch.float32)
    context = context_of(traced, source, device)
    preferred = {} if prefer is None else {"passes.choose_kernels.prefer": prefer}
    passes = default_passes(config, **preferred, **values)
    history = run_passes(traced.graph_module, passes, context)
    caches = cache_specs(traced.graph_module.graph)
    spec = ProgramSpec(VOCAB_SIZE, traced.max_model_len or MAX_POSITIONS, caches)
    tensors = context.weights.read(source, device)
    program = Program(traced.graph_module, tensors, kernel_table(device), torch.device(device), spec)
    return Built(program, traced.graph_module, context.weights, tensors, history)


def replay(program: Program, token_ids: Sequence[int], chunks: Sequence[int], page_size: int = 4) -> Tensor:
    """The logits of every token, computed in steps of `chunks` tokens each over one cache."""
    cache = program.new_cache(-(-len(token_ids) // page_size), page_size)
    logits, start = [], 0
    for size in chunks:
        step = step_of(token_ids[start : start + size], start, page_size, program.device)
        logits.append(program.forward(step, cache))
        start += size
    return torch.cat(logits)


def step_of(token_ids: Sequence[int], start: int, page_size: int, device: torch.device | str = "cpu") -> StepInputs:
    """A step of one request whose first `start` tokens are cached, in pages 0, 1, 2, …"""
    end = start + len(token_ids)
    positions = torch.arange(start, end, device=device)
    return StepInputs(
        input_ids=torch.tensor(token_ids, device=device),
        position_ids=positions,
        query_start=torch.tensor([0, len(token_ids)], dtype=torch.int32, device=device),
        context_len=torch.tensor([end], dtype=torch.int32, device=device),
        page_table=torch.arange(-(-end // page_size), dtype=torch.int32, device=device).unsqueeze(0),
        slots=positions,
        logit_rows=torch.arange(len(token_ids), device=device),
    )


def error(got: Tensor, wanted: Tensor) -> float:
    """The largest `‖got - wanted‖ / ‖wanted‖` of any token's logits."""
    return float(((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


VARIANTS: Mapping[str, tuple[str, Options]] = {
    "rotary linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "rotary llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "rotary yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 24,
            }
        },
    ),
    "rotary of half a head": (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "heads wider than the model": ("llama", {"head_dim": 24}),
    "one key head": ("llama", {"num_key_value_heads": 1}),
    "as many key heads": ("llama", {"num_key_value_heads": 4}),
    "one layer": ("llama", {"num_hidden_layers": 1}),
    "gelu": ("llama", {"hidden_act": "gelu"}),
    "squared relu": ("llama", {"hidden_act": "relu2"}),
    "quick gelu": ("llama", {"hidden_act": "quick_gelu"}),
    "an activation without a canonical form": ("llama", {"hidden_act": "mish"}),
    "a window in one layer of two": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "soft caps that bite": (
        "gemma2",
        {
            "sliding_window": 8,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 1.0,
            "query_pre_attn_scalar": 24,
        },
    ),
    "no soft caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "a norm of each head": ("stablelm", {"qk_layernorm": True, "use_qkv_bias": True}),
    "parallel residual": ("stablelm", {"use_parallel_residual": True}),
    "norms of queries and keys": ("cohere", {"use_qk_norm": True, "tie_word_embeddings": True}),
    "norms of phi's heads": ("phi", {"qk_layernorm": True, "num_key_value_heads": 4}),
    "a scale for each layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "no scale": ("gpt2", {"scale_attn_weights": False}),
    "norms after": ("opt", {"ffn_dim": 80, "do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "norms without weights": (
        "opt",
        {"ffn_dim": 80, "layer_norm_elementwise_affine": False, "word_embed_proj_dim": 64},
    ),
    "ALiBi that is scaled": ("falcon", {"alibi": True}),
    "keys of each group beside its queries": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "keys of each head beside its queries": ("falcon", {"multi_query": False}),
    "windows in a table": ("gpt_neo", {"attention_types": [[["local", "global"], 1]], "window_size": 7}),
    "heads that are no power of two": ("bloom", {"n_head": 3, "hidden_size": 48}),
    "one residual after the other": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
}
"""What configs of those families may also ask for, by what it is."""

REFUSED: Mapping[str, tuple[Options, str]] = {
    "cpmant": ({}, "CpmAntForCausalLM cannot be traced: its code allows only some numbers of tokens"),
    "diffllama": ({}, "'diffllama' has 2 layers and 4 attentions of a known form"),
    "gemma3_text": ({"use_bidirectional_attention": True}, "masks attention with .*or_masks"),
    "jetmoe": ({}, "JetMoeTopKGating: aten.* only attention may depend on what else is in the row"),
    "xlm-roberta": ({"is_decoder": True}, "aten.embedding.default counts positions from past those of padding"),
}
"""What cannot be served yet, and the sentence that says so."""

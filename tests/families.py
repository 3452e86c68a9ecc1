"""Tiny models of many families, with random weights, and what it takes to run them as programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from autodeploy.export import Traced, trace_model
from autodeploy.hardware import choose_gpu
from autodeploy.kernels import KernelTable, builtin_kernels
from autodeploy.optimizer import resolve_settings
from autodeploy.pipeline import Context, Pass, PassReport, run_passes
from autodeploy.program import Program, ProgramSpec, cache_specs
from autodeploy.runtime.model import StepInputs
from autodeploy.weights import MemorySource, WeightPlan, plan_weights

VOCAB_SIZE = 96
MAX_POSITIONS = 96
SIZES: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": MAX_POSITIONS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
"""What every config is given of these, where it has such a field."""

Options = Mapping[str, Any]

FAMILIES: Mapping[str, Options] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {},
    "gemma": {"tie_word_embeddings": True},
    "gemma2": {"sliding_window": 8, "tie_word_embeddings": True},
    "gemma3_text": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "phi": {"num_key_value_heads": 4},
    "phi3": {"sliding_window": 8},
    "gpt2": {"n_inner": 80, "tie_word_embeddings": True},
    "gpt_neox": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}},
    "olmo2": {},
    "granite": {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5},
    "starcoder2": {"sliding_window": 8},
    "smollm3": {"no_rope_layers": [1, 0]},
    "stablelm": {},
    "cohere": {"tie_word_embeddings": True},
    "opt": {"ffn_dim": 80, "word_embed_proj_dim": 64, "tie_word_embeddings": True},
}
"""The families that must work, by transformers' model type."""


def config_of(model_type: str, options: Options | None = None) -> PretrainedConfig:
    """A tiny config: the common sizes as far as the family has them, and its own options over them."""
    fields = AutoConfig.for_model(model_type)
    known = {**fields.to_dict(), **fields.attribute_map}
    common = {name: value for name, value in SIZES.items() if name in known}
    config: PretrainedConfig = AutoConfig.for_model(
        model_type, **{**common, **(FAMILIES.get(model_type, {}) if options is None else options)}
    )
    return config


def random_model(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """transformers' own model with eager attention, in which no weight is left at a zero or one that hides mistakes."""
    torch.manual_seed(0)
    factory: Any = AutoModelForCausalLM
    model: PreTrainedModel = factory.from_config(config, attn_implementation="eager", dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@cache
def kernel_table() -> KernelTable:
    return builtin_kernels("cpu")


def default_passes(config: PretrainedConfig, **values: Any) -> list[Pass]:
    """The passes of the default recipe for the CPU."""
    recipe = resolve_settings(config, choose_gpu("cpu"), recipe="auto", workload="balanced", values=values)
    return [one for _, one in recipe.passes]


def context_of(traced: Traced, source: MemorySource, **options: Any) -> Context:
    """What the passes know of a traced model whose weights come from `source`."""
    weights = plan_weights(traced.model, source)  # type: ignore[arg-type]
    for name, tensor in traced.constants.items():
        if name not in weights:
            weights.add_constant(name, tensor)
    weights.prune(traced.graph_module)
    return Context(traced.config, weights, torch.device("cpu"), kernels=kernel_table(), **options)


@dataclass(frozen=True)
class Built:
    """A program and how it came to be."""

    program: Program
    graph_module: GraphModule
    weights: WeightPlan
    history: Sequence[PassReport]


def build(config: PretrainedConfig, source: MemorySource, passes: Sequence[Pass] | None = None) -> Built:
    """Trace, optimize and load a model."""
    traced = trace_model(config, torch.float32)
    context = context_of(traced, source)
    history = run_passes(traced.graph_module, default_passes(config) if passes is None else passes, context)
    spec = ProgramSpec(VOCAB_SIZE, traced.max_model_len or MAX_POSITIONS, cache_specs(traced.graph_module.graph))
    program = Program(traced.graph_module, context.weights.read(source), kernel_table(), torch.device("cpu"), spec)
    return Built(program, traced.graph_module, context.weights, history)


def replay(program: Program, token_ids: Sequence[int], chunks: Sequence[int], page_size: int = 4) -> Tensor:
    """The logits of every token, computed in steps of `chunks` tokens each over one cache."""
    cache = program.new_cache(-(-len(token_ids) // page_size), page_size)
    logits, start = [], 0
    for size in chunks:
        logits.append(program.forward(step_of(token_ids[start : start + size], start, page_size), cache))
        start += size
    return torch.cat(logits)


def step_of(token_ids: Sequence[int], start: int, page_size: int) -> StepInputs:
    """A step of one request whose first `start` tokens are cached, in pages 0, 1, 2, …"""
    end = start + len(token_ids)
    positions = torch.arange(start, end)
    return StepInputs(
        input_ids=torch.tensor(token_ids),
        position_ids=positions,
        query_start=torch.tensor([0, len(token_ids)], dtype=torch.int32),
        context_len=torch.tensor([end], dtype=torch.int32),
        page_table=torch.arange(-(-end // page_size), dtype=torch.int32).unsqueeze(0),
        slots=positions,
        logit_rows=torch.arange(len(token_ids)),
    )


def error(got: Tensor, wanted: Tensor) -> float:
    """The largest `‖got - wanted‖ / ‖wanted‖` of any token's logits."""
    return float(((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())

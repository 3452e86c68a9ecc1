"""Tiny models of many families, with random weights: a second to trace, and nothing to download."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from autodeploy.errors import InputError, nearest

Options = Mapping[str, Any]
VOCAB_SIZE = 96
MAX_POSITIONS = 96
SIZES: Mapping[str, Any] = MappingProxyType(
    {
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
)
"""What every config is given of these, where it has such a field."""

FAMILIES: Mapping[str, Options] = MappingProxyType(
    {
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
)
"""The families that must work, by transformers' model type."""

OTHER_FAMILIES: Mapping[str, Options] = MappingProxyType(
    {
        "apertus": {},
        "dots1": {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
        "glm4_moe": {"moe_intermediate_size": 32, "n_routed_experts": 4, "num_experts_per_tok": 2},
        "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
        "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
        "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
        "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
        "qwen2_moe": {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2},
        "qwen3_moe": {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2},
        "arcee": {},
        "bert": {"is_decoder": True},
        "biogpt": {},
        "bitnet": {},
        "cohere2": {"sliding_window": 8},
        "ernie4_5": {},
        "exaone4": {"sliding_window": 8},
        "glm": {},
        "glm4": {},
        "gpt_bigcode": {},
        "helium": {},
        "hunyuan_v1_dense": {},
        "nemotron": {},
        "olmo": {"clip_qkv": 0.5},
        "olmo3": {"sliding_window": 8},
        "persimmon": {},
        "seed_oss": {},
    }
)
"""Families that nobody named, and that work."""

HAND_WRITTEN_FAMILIES: Mapping[str, Options] = MappingProxyType(
    {
        "bloom": {"tie_word_embeddings": True},
        "codegen": {"rotary_dim": 8},
        "falcon": {},
        "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
        "gptj": {"rotary_dim": 8},
        "mpt": {"max_seq_len": MAX_POSITIONS, "tie_word_embeddings": True},
        "xglm": {"ffn_dim": 80, "tie_word_embeddings": True},
    }
)
"""Families whose code never calls transformers' attention registry: patterns find their attention."""

_OPTIONS: Mapping[str, Options] = MappingProxyType({**OTHER_FAMILIES, **HAND_WRITTEN_FAMILIES, **FAMILIES})


def tiny_config(model_type: str, **options: Any) -> PretrainedConfig:
    """A config of transformers' `model_type`: `SIZES`, what the family needs beside them, and `options` over both.

    Raises InputError for a model type that transformers does not have.
    """
    return config_with(model_type, {**_OPTIONS.get(model_type, {}), **options})


def config_with(model_type: str, options: Options) -> PretrainedConfig:
    """A config of exactly these options over `SIZES`, as far as the family has them."""
    if model_type not in CONFIG_MAPPING:
        raise InputError(f"{model_type!r} is no model type of transformers; {nearest(model_type, CONFIG_MAPPING)}")
    fields = AutoConfig.for_model(model_type)
    known = {**fields.to_dict(), **fields.attribute_map}
    common = {name: value for name, value in SIZES.items() if name in known}
    config: PretrainedConfig = AutoConfig.for_model(model_type, **{**common, **options})
    return config


def tiny_model(model: str | PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """transformers' own model of a config or of a family, with eager attention and the same weights each time.

    No weight is left at a zero or one that hides mistakes.
    """
    config = tiny_config(model) if isinstance(model, str) else model
    factory: Any = AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: PreTrainedModel = factory.from_config(config, attn_implementation="eager", dtype=dtype).eval()
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return built

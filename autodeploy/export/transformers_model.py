"""A transformers model on the meta device: real buffers, no weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from autodeploy.errors import ModelError, UnsupportedError
from autodeploy.export.registry import IMPLEMENTATION, register

MODELOPT = "hf_quant_config.json"
_LENGTH_DEPENDENT = ("dynamic", "longrope")


def load_config(folder: Path) -> PretrainedConfig:
    """Read `config.json` of a Hugging Face folder; raises ModelError when it is missing or unknown.

    What modelopt's older exports say of quantization in a file of its own is laid into it.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json, so it is not a Hugging Face model folder")
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"{folder / 'config.json'}: {_first_sentence(error)}") from error
    if getattr(config, "quantization_config", None) is None and (folder / MODELOPT).is_file():
        config.quantization_config = {"quant_method": "modelopt", **_read(folder / MODELOPT)}
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        return {**found}
    except (ValueError, TypeError) as error:
        raise ModelError(f"{file} is damaged: it holds no settings in JSON ({error})") from error


def build_meta_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Instantiate the causal language model of `config` with parameters on meta and buffers on the CPU.

    Its attention is ours where its code goes through transformers' registry, and otherwise what it computes by itself
    when asked for "eager": the plain form, which for Falcon is the one that its weights were trained with (its "sdpa"
    differs by 3e-2).
    """
    register()
    try:
        model = _instantiate(config, dtype, IMPLEMENTATION)
    except KeyError as error:
        if error.args != (IMPLEMENTATION,):
            raise UnsupportedError(f"model type {config.model_type!r}: its config lacks {error}") from error
        model = None  # it looks its attention up in a table of its own
    if model is None or not uses_registry(model):
        model = _instantiate(config, dtype, "eager")
    model.config.get_text_config().use_cache = False
    model.train(False)
    return model


def uses_registry(model: nn.Module) -> bool:
    """Whether code of the model calls attention through transformers' registry."""
    files = {type(module).__module__ for module in model.modules()}
    return any(hasattr(sys.modules[file], "ALL_ATTENTION_FUNCTIONS") for file in files)


def _instantiate(config: PretrainedConfig, dtype: torch.dtype, implementation: str) -> PreTrainedModel:
    factory: Any = AutoModelForCausalLM
    try:
        with init_empty_weights(include_buffers=False):
            model: PreTrainedModel = factory.from_config(
                config, attn_implementation=implementation, experts_implementation=IMPLEMENTATION, dtype=dtype
            )
    except (AttributeError, TypeError, ValueError) as error:
        raise UnsupportedError(f"model type {config.model_type!r}: {_first_sentence(error)}") from error
    return model


def freeze_rotary_scaling(model: nn.Module, config: PretrainedConfig) -> int | None:
    """Fix rotary frequencies that depend on the length to those of short sequences.

    transformers recomputes them from the longest position of the whole row, so that one request would change its
    neighbours. Returns the length in tokens up to which the fixed ones are exact, or None when nothing depended on it.
    """
    limits: list[int] = []
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, str) and kind in _LENGTH_DEPENDENT:
            setattr(module, "rope_type", "default")  # noqa: B010 (nn.Module's attributes are typed as modules)
            limits.append(_original_length(config))
        elif isinstance(kind, dict) and set(kind.values()) & set(_LENGTH_DEPENDENT):
            raise UnsupportedError(f"{type(module).__name__}: rotary scaling that differs by layer and by length")
    return min(limits, default=None)


def _original_length(config: PretrainedConfig) -> int:
    parameters = getattr(config, "rope_parameters", None) or {}
    length = parameters.get("original_max_position_embeddings") or config.max_position_embeddings
    return int(length)


def _first_sentence(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]

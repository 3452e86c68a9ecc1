"""Which forms of quantized checkpoints are known, and what a checkpoint of one holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from autodeploy.checkpoints.awq import Awq
from autodeploy.checkpoints.compressed_tensors import CompressedTensors
from autodeploy.checkpoints.form import WHERE, Fields, Form
from autodeploy.checkpoints.fp8_blocks import Fp8
from autodeploy.checkpoints.gguf import Gguf
from autodeploy.checkpoints.gptq import Gptq
from autodeploy.checkpoints.modelopt import Modelopt
from autodeploy.checkpoints.module import modules_of
from autodeploy.checkpoints.mxfp4 import Mxfp4
from autodeploy.errors import UnsupportedError
from autodeploy.weights.expression import Expression, Stored
from autodeploy.weights.source import RandomSource, TensorSource

if TYPE_CHECKING:  # a plan that is kept does without transformers
    from transformers import PretrainedConfig

FORMS: Mapping[str, Callable[[Fields], Form]] = MappingProxyType(
    {
        "awq": Awq.of,
        "compressed-tensors": CompressedTensors.of,
        "fp8": Fp8.of,
        "gguf": Gguf.of,
        "gptq": Gptq.of,
        "modelopt": Modelopt.of,
        "mxfp4": Mxfp4.of,
    }
)
"""Readers by the `quant_method` of a config."""


def known() -> list[str]:
    """The forms that we read, by name."""
    return sorted(FORMS)


def form_of(config: PretrainedConfig) -> Form | None:
    """The form of the checkpoint of a model, as `read_form` has it."""
    return read_form(fields_of(config))


def read_form(fields: Fields | None) -> Form | None:
    """The form of a checkpoint whose config says so of quantization, None for one that is not quantized.

    Raises UnsupportedError for a form we do not know, and CheckpointError for one whose settings make no sense.
    """
    if fields is None:
        return None
    method = str(fields.get("quant_method", ""))
    if method not in FORMS:
        called = f"quant_method {method!r}" if method else "it names no quant_method, which"
        raise UnsupportedError(f"{WHERE}: {called} is not a form of quantized checkpoint we read: {', '.join(known())}")
    return FORMS[method](fields)


def fields_of(config: PretrainedConfig) -> Fields | None:
    """What a config says of quantization, None where it says nothing."""
    return _fields(config) or _fields(config.get_text_config())


def unpack(source: TensorSource, form: Form | None) -> dict[str, Expression]:
    """What a checkpoint holds, by the keys that it would have if nothing of it were quantized."""
    if form is None:
        return {key: Stored.of(key, source) for key in source.keys()}  # noqa: SIM118 (it is not a mapping)
    held: dict[str, Expression] = {}
    for module in modules_of(source):
        found = form.unpack(module)
        plain = module.names - set(form.own) if found else module.names
        held |= {module.key(name): module.stored(name) for name in plain}
        held |= {module.key(name): weight for name, weight in found.items()}
    return held


def outline(source: RandomSource, form: Form | None) -> RandomSource:
    """A source with what a checkpoint of that form holds of experts in place of their numbers, where that is known."""
    if not isinstance(form, Mxfp4):
        return source
    shapes = {key: torch.empty(source.shape(key), dtype=source.dtype(key), device="meta") for key in source.keys()}  # noqa: SIM118
    return RandomSource(form.outline(shapes))


def _fields(config: PretrainedConfig) -> dict[str, Any] | None:
    found = getattr(config, "quantization_config", None)
    if found is None or isinstance(found, dict):
        return found
    fields: dict[str, Any] = found.to_dict()
    return fields

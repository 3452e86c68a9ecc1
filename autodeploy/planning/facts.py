"""What a config says that a plan rests on before the model is traced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autodeploy.checkpoints import fields_of

if TYPE_CHECKING:  # whose import takes seconds
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Facts:
    """The kind of a model, and how its checkpoint is stored."""

    model_type: str
    dtype: torch.dtype | None
    quantization: Mapping[str, Any] | None
    """The config's `quantization_config`."""

    @classmethod
    def of(cls, config: PretrainedConfig) -> Facts:
        """The facts of a config as transformers reads it."""
        return cls(config.model_type, getattr(config, "dtype", None), fields_of(config))

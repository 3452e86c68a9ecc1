from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from autodeploy.weights import MemorySource, Ranges


class RecordingSource(MemorySource):
    """Counts the elements that are read of every key."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.elements: dict[str, int] = {}

    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        part = super().read(key, ranges)
        self.elements[key] = self.elements.get(key, 0) + prod(part.shape)
        return part


@pytest.fixture
def recording() -> type[RecordingSource]:
    return RecordingSource


class Build:
    """Models with weights, and the same models on the meta device."""

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }

    def real(self, config: PretrainedConfig) -> PreTrainedModel:
        torch.manual_seed(0)
        return self._model(config, torch.float32)

    def meta(self, config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        with torch.device("meta"):
            return self._model(config, dtype)

    def _model(self, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
        factory: Any = AutoModelForCausalLM
        model: PreTrainedModel = factory.from_config(config, dtype=dtype)
        return model


@pytest.fixture
def build() -> Build:
    return Build()

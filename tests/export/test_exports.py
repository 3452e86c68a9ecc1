"""What tests trace again is a copy of their own, and only of what is the same."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP

from autodeploy.export import trace, trace_model
from autodeploy.testing import tiny_config
from tests.exports import Exports


def test_one_export_for_equal_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    export = trace._export

    def counted(*given: object) -> object:
        made.append(str(given[2]))
        return export(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(trace, "_export", Exports(counted))  # type: ignore[arg-type]
    first = trace_model(tiny_config("llama"), torch.float32)
    first.graph_module.graph.erase_node(first.graph_module.graph.output_node())
    second = trace_model(tiny_config("llama"), torch.float32)
    assert second.graph_module.graph.output_node()
    assert second.model is not first.model
    assert made == ["meta"]
    trace_model(tiny_config("llama"), torch.bfloat16)
    trace_model(tiny_config("llama", num_hidden_layers=1), torch.float32)
    assert made == ["meta"] * 3
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: self.down_proj(self.up_proj(x)))
    trace_model(tiny_config("llama"), torch.float32)
    assert made == ["meta"] * 4

"""The graph of each family, once its operators are canonical and at the end of the default recipe.

`pytest tests/golden --update-golden` writes the files; read what changed before committing them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autodeploy.export import trace_model
from autodeploy.pipeline import Stage, run_passes
from autodeploy.testing import assert_counts, graph_text, op_counts
from autodeploy.testing.families import FAMILIES
from autodeploy.weights.source import RandomSource
from tests.families import REFERENCES, config_of, context_of, default_passes
from tests.graphs import num_until

QUICK = ("llama", "gemma3_text", "gpt2")
LEFT_OVER = (
    "aten.linear", "aten.addmm", "aten.mm", "aten.bmm", "aten.matmul", "aten.layer_norm", "aten.rms_norm", "aten.rsqrt",
    "aten.softmax", "aten.scaled_dot_product_attention", "aten.silu", "aten.gelu", "aten.relu", "aten.sigmoid",
    "aten.neg", "aten.stack", "aten.pow", "aten.mean",
)  # fmt: skip
"""What norms, rotary embeddings, activations, attention and projections are made of."""


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_the_graph_is_the_golden_one(family: str, golden: Callable[[str, Path], None]) -> None:
    config = config_of(family)
    traced = trace_model(config, torch.float32)
    context = context_of(traced, RandomSource.of(traced.model), kernels=REFERENCES)
    passes = default_passes(config)
    end = num_until(passes, Stage.CANONICALIZE)
    graph_module = traced.graph_module
    run_passes(graph_module, passes[:end], context)
    assert_counts(graph_module, {"attention": config.num_hidden_layers}, absent=LEFT_OVER)
    counts = "".join(f"{count:4} {name}\n" for name, count in sorted(op_counts(graph_module).items()))
    canonical = graph_text(graph_module)
    run_passes(graph_module, passes[end:], context)
    sections = {"CANONICALIZE, counts": counts, "CANONICALIZE": canonical, "final": graph_text(graph_module)}
    golden("\n".join(f"# {title}\n{text}" for title, text in sections.items()), Path(f"{family}.txt"))

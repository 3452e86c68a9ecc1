"""Programs on a GPU whose projections write over residuals: a captured step may be replayed."""

from __future__ import annotations

import pytest
import torch

from autodeploy import ops
from autodeploy.graph.nodes import calls_of
from autodeploy.testing.families import VOCAB_SIZE, tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests.families import UNTUNED, build, error, step_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("rows", [1, 40, 90])
def test_a_captured_step_says_the_same_each_time(rows: int) -> None:
    """With few rows by our kernels, with many by the library's, which writes over the residual at each replay."""
    config = tiny_config("llama")
    source = MemorySource(dict(tiny_model(config).state_dict()))
    step = step_of(torch.randint(3, VOCAB_SIZE, (rows,)).tolist(), 0, 4, "cuda")
    built = build(config, source, device="cuda", values=UNTUNED)
    plain = build(config, source, device="cuda", values={**UNTUNED, "passes.fuse_residual_linear": False})
    assert calls_of(built.graph_module.graph, ops.residual_linear.overload)
    wanted = plain.program.forward(step, plain.program.new_cache(25, 4))
    cache = built.program.new_cache(25, 4)
    assert error(built.program.forward(step, cache), wanted) <= 1e-4
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = built.program.forward(step, cache)
    for _ in range(3):
        with torch.inference_mode():
            captured.fill_(float("nan"))
        graph.replay()
        assert error(captured, wanted) <= 1e-4

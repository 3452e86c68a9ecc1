"""What computes the cosines and sines of positions becomes one call, and what only looks like it stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.export import trace_model
from autodeploy.graph.nodes import arguments, calls_of
from autodeploy.patterns.rotary_tables import ROTARY_TABLES
from autodeploy.pipeline import Stage, run_passes
from autodeploy.rewrite import RewriteResult, apply_rules
from autodeploy.testing import op_counts
from autodeploy.weights.source import RandomSource
from tests.families import REFERENCES, config_of, context_of, default_passes
from tests.graphs import clean, num_until, targets, trace

FORMS = {
    "llama": (1, False),
    "gemma3_text": (2, False),
    "gpt_neox": (1, False),
    "phi3": (1, False),
    "cohere": (1, True),
    "glm": (1, True),
    "gpt_oss": (1, False),
}
"""How many tables a family has, and whether they are of neighbouring pairs."""
POSITIONS = torch.randint(100000, (1, 6))
LEFT_OVER = {"aten.cos", "aten.sin", "aten.repeat_interleave", "aten.cat"}


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FORMS)
def test_every_form_is_one_call(family: str, dtype: torch.dtype) -> None:
    config = config_of(family)
    traced = trace_model(config, dtype)
    context = context_of(traced, RandomSource.of(traced.model), kernels=REFERENCES)
    passes = default_passes(config)
    run_passes(traced.graph_module, passes[: num_until(passes, Stage.CANONICALIZE)], context)
    count, interleaved = FORMS[family]
    assert op_counts(traced.graph_module)["rotary_tables"] == count
    assert LEFT_OVER.isdisjoint(op_counts(traced.graph_module))
    for tables in calls_of(traced.graph_module.graph, torch.ops.autodeploy.rotary_tables.default):
        named = arguments(tables)
        assert named["interleaved"] is interleaved
        assert named["dtype"] is dtype
        assert (named["scaling"] != 1.0) is (family == "gpt_oss")


class Of(nn.Module):
    """What a function makes of positions and frequencies."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.frequencies = nn.Parameter(torch.rand(4))

    def forward(self, positions: Tensor) -> Tensor:
        return self.function(positions, self.frequencies)


def angles(positions: Tensor, frequencies: Tensor, dtype: torch.dtype = torch.float32, dim: int = -1) -> Tensor:
    once = positions.unsqueeze(-1).to(dtype) * frequencies.to(dtype)
    return torch.cat((once, once), dim=dim)


def both(turned: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    return turned.cos() * factor + (turned.sin() * factor).exp()


DECLINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "is also used outside": lambda positions, rates: (lambda one: both(one) + one)(angles(positions, rates)),
    "not doubled": lambda positions, rates: both(angles(positions, rates, dim=-2)),
    "not in float32": lambda positions, rates: both(angles(positions, rates, torch.float16)),
    "are no angles": lambda positions, rates: both(angles(positions / 4, rates)),
}
"""By a part of the reason."""


def run_pass(gm: GraphModule) -> RewriteResult:
    result = apply_rules(gm, ROTARY_TABLES, lambda: True)
    gm.graph.lint()
    gm.recompile()
    return result


@pytest.mark.parametrize("factor", [lambda _: 1.0, lambda _: 1.5, torch.sum])
def test_tables_are_the_same_to_the_last_bit(factor: Callable[[Tensor], Tensor | float]) -> None:
    """A factor that is no number multiplies them as before."""
    gm = clean(trace(Of(lambda positions, rates: both(angles(positions, rates), factor(rates))), POSITIONS))
    expected = gm(POSITIONS)
    assert run_pass(gm).total == 1
    assert torch.equal(gm(POSITIONS), expected)
    assert targets(gm).count("aten.mul.Tensor") == 2 * (factor is torch.sum)


@pytest.mark.parametrize("reason", DECLINED)
def test_what_is_no_table_stays_and_says_why(reason: str) -> None:
    gm = clean(trace(Of(DECLINED[reason]), POSITIONS))
    result = run_pass(gm)
    assert result.total == 0
    assert any(reason in miss.reason for miss in result.misses), [miss.reason for miss in result.misses]

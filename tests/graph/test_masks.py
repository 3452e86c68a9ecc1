from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from autodeploy.graph.evaluate import Evaluator, numbers_in, reads_data, why_unknown
from autodeploy.graph.masks import Mask, name_mask
from tests.graphs import trace

NUM = 9
AT = torch.arange(NUM)
DISTANCE = AT[:, None] - AT
SLOPES = torch.tensor([0.5, 0.25])[:, None, None]
CAUSAL = torch.zeros(NUM, NUM).masked_fill(DISTANCE < 0, float("-inf"))

NAMED: Mapping[str, tuple[Tensor, bool, int | None, list[float] | None]] = {
    "seen": (DISTANCE >= 0, True, None, None),
    "added": (CAUSAL, True, None, None),
    "for each head": (CAUSAL.expand(1, 2, NUM, NUM), True, None, None),
    "all seen": (torch.ones(NUM, NUM, dtype=torch.bool), False, None, None),
    "nothing added": (torch.zeros(1, 1, 1, NUM), False, None, None),
    "window": ((DISTANCE >= 0) & (DISTANCE < 4), True, 4, None),
    "window of one": (DISTANCE == 0, True, 1, None),
    "slopes of distance": (CAUSAL - SLOPES * DISTANCE, True, None, [0.5, 0.25]),
    "slopes of keys": (SLOPES * AT, False, None, [0.5, 0.25]),
    "slopes from the end": (CAUSAL + SLOPES * (AT - NUM), True, None, [0.5, 0.25]),
    "slopes in a window": ((CAUSAL + SLOPES * AT).masked_fill(DISTANCE >= 5, -1e4), True, 5, [0.5, 0.25]),
    "a constant of each row": (CAUSAL + AT[:, None], True, None, [0.0]),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_mask_has_a_name(name: str) -> None:
    values, causal, window, slopes = NAMED[name]
    mask = name_mask(values)
    assert isinstance(mask, Mask)
    assert (mask.causal, mask.window) == (causal, window)
    assert slopes == (None if mask.slopes is None else mask.slopes.tolist())


UNNAMED: Mapping[str, tuple[Tensor, str]] = {
    "later keys only": (DISTANCE <= 0, "it hides other keys"),
    "a chunk": ((DISTANCE >= 0) & (AT[:, None] // 3 == AT // 3), "it hides other keys"),
    "a prefix": ((DISTANCE >= 0) | (AT < 3), "it hides other keys"),
    "a window without an end": (DISTANCE < 4, "it hides other keys"),
    "another in each head": (torch.stack((CAUSAL, CAUSAL.roll(1, 1))), "in some heads"),
    "another in each row": (torch.stack((CAUSAL, CAUSAL * 0))[:, None], "rows of a batch"),
    "nearly hidden": (CAUSAL.clamp_min(-9999.0), "not a line"),
    "both ways": (-SLOPES * DISTANCE.abs(), "not a line"),
    "steps": (SLOPES * (AT // 2), "not a line"),
    "noise": (CAUSAL + 1e-3 * torch.randn(NUM, NUM, generator=torch.manual_seed(0)), "not a line"),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_another_has_none(name: str) -> None:
    values, reason = UNNAMED[name]
    named = name_mask(values)
    assert isinstance(named, str)
    assert reason in named


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("table", torch.arange(50.0))
        self.weight = nn.Parameter(torch.ones(50))

    def forward(self, x: Tensor, position_ids: Tensor) -> Tensor:
        return self.function(x, position_ids)


FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sizes": lambda x, at: torch.arange(x.shape[1]) * 3,
    "positions": lambda x, at: at * 2 + 1,
    "a shape": lambda x, at: torch.ones_like(x).cumsum(1),
    "a new tensor": lambda x, at: x.new_full((x.shape[1], 2), 7.0),
    "half precision": lambda x, at: (torch.arange(x.shape[1]) * 1.001).bfloat16().float() - 1,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_depends_on_positions_is_computed_at_any_length(name: str) -> None:
    graph_module = trace(Function(FUNCTIONS[name]), torch.randn(1, 6), torch.arange(6)[None])
    (node,) = graph_module.graph.output_node().all_input_nodes
    (tokens,) = (one.meta["val"].shape[1] for one in graph_module.graph.find_nodes(op="placeholder")[:1])
    assert why_unknown(node, {}) is None
    assert not reads_data(node)
    wanted = FUNCTIONS[name](torch.randn(1, 23), torch.arange(23)[None])
    got = Evaluator({}, tokens, 23).evaluate(node)
    assert got.shape == wanted.shape
    assert float((got - wanted).abs().max()) <= (0.1 if name == "half precision" else 0)


def test_what_depends_on_more_is_not() -> None:
    data = trace(Function(lambda x, at: (x > 0) & (at > 3)), torch.randn(1, 6), torch.arange(6)[None])
    (node,) = data.graph.output_node().all_input_nodes
    assert why_unknown(node, {}) == "it depends on the values of x"
    assert reads_data(node)


def test_the_numbers_of_a_mask_are_those_it_is_made_of() -> None:
    graph_module = trace(
        Function(lambda x, at: (at < 11) & (at[:, :1] + 5 > at)), torch.randn(1, 6), torch.arange(6)[None]
    )
    (node,) = graph_module.graph.output_node().all_input_nodes
    assert {5, 11} <= numbers_in(node, {})

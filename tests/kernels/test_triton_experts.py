"""Projections by the weight of each row's expert, whichever were chosen and how often."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.table import Kernel
from tests.kernels.device import DEVICE, DTYPES, INTERPRETED, close, device_test, draw, kernel

experts_module = pytest.importorskip("autodeploy.kernels.triton.experts")

CHOICES = {
    "spread": (5, 2, 4),
    "one token": (1, 2, 8),
    "many rows": (150, 2, 3) if INTERPRETED else (4096, 8, 128),
    "one expert": (20, 1, 1),
}


def agree(x: Tensor, experts: Tensor, weight: Tensor, bias: Tensor | None = None, transposed: bool = False) -> None:
    out = kernel(ops.expert_linear).run(x, experts, weight, bias, transposed)
    assert out.dtype == x.dtype
    wide = None if bias is None else bias.double()
    close(out, ops.expert_linear.reference(x.double(), experts, weight.double(), wide, transposed))


def choose(tokens: int, each: int, num_experts: int) -> Tensor:
    return torch.stack([torch.randperm(num_experts)[:each] for _ in range(tokens)]).to(DEVICE)


@device_test
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("choice", CHOICES)
def test_expert_linear(choice: str, dtype: torch.dtype, transposed: bool) -> None:
    tokens, each, num_experts = CHOICES[choice]
    experts = choose(tokens, each, num_experts)
    for n, k in ((40, 72), (64, 128)):
        weight = draw(num_experts, *((k, n) if transposed else (n, k)), dtype=dtype)
        bias = draw(num_experts, n, dtype=dtype)
        agree(draw(tokens, 1, k, dtype=dtype), experts, weight, bias, transposed)
        agree(draw(tokens, each, k, dtype=dtype), experts, weight, None, transposed)


@device_test
def test_all_rows_choose_the_last_expert() -> None:
    x, weight = draw(40, 96, dtype=torch.float32), draw(6, 33, 96, dtype=torch.float32)
    experts = torch.full((40,), 5, device=DEVICE)
    out = experts_module.expert_linear(x, experts, weight)
    close(out, x.double() @ weight[5].double().T)


@device_test
def test_one_row_for_all_places_and_none_at_all() -> None:
    x, weight, experts = draw(1, 48, dtype=torch.float32), draw(3, 20, 48, dtype=torch.float32), choose(7, 2, 3)
    agree(x, experts, weight)
    assert experts_module.expert_linear(x[:0], experts[:0, :1], weight).shape == (0, 1, 20)


@device_test
def test_rows_are_in_the_order_of_their_experts() -> None:
    experts = torch.randint(0, 7, (1500,), device=DEVICE)
    order, starts = experts_module.group_by_expert(experts, 9)
    assert torch.equal(order.long(), torch.sort(experts, stable=True).indices)
    assert starts.tolist() == [int((experts < expert).sum()) for expert in range(9)]


def test_no_step_waits_for_experts() -> None:
    served: Kernel = kernel(ops.expert_linear)
    assert not served.waits
    x, weight = torch.empty(2, 8, dtype=torch.float16), torch.empty(3, 4, 8)
    assert served.declines(x, torch.zeros(2, dtype=torch.int64), weight) == "the arguments differ in dtype"
    assert served.declines(x, torch.zeros(2, dtype=torch.int64), weight.half()) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_graph_follows_the_choice_of_each_replay() -> None:
    x, weight = draw(16, 1, 64, dtype=torch.float32), draw(8, 32, 64, dtype=torch.float32)
    experts = choose(16, 2, 8)
    experts_module.expert_linear(x, experts, weight)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = experts_module.expert_linear(x, experts, weight)
    for _ in range(3):
        experts.copy_(choose(16, 2, 8))
        out.fill_(float("nan"))
        graph.replay()
        close(out, ops.expert_linear.reference(x.double(), experts, weight.double()))

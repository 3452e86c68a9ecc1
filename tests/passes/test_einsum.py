"""Einsums as projections, matmuls and products of numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.passes.canonicalize_linears import CanonicalizeLinears
from autodeploy.passes.canonicalize_matmuls import CanonicalizeMatmuls
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.testing import op_counts, relative_error
from autodeploy.weights import Constant, Expression, Permute, Reshape, WeightPlan
from tests.graphs import run

PASSES = (CleanGraph(), CanonicalizeLinears(), CanonicalizeMatmuls(), CleanGraph())
BATCH, WIDTH, HEADS, HEAD_DIM, OUT = 2, 12, 3, 4, 5


class Projected(nn.Module):
    """An einsum of a tensor with a weight, in either order, with a bias where there is one."""

    def __init__(
        self, equation: str, shape: tuple[int, ...], bias: tuple[int, ...] = (), *, first: bool = False
    ) -> None:
        super().__init__()
        self.equation, self.first = equation, first
        self.weight = nn.Parameter(torch.randn(shape))
        self.bias = nn.Parameter(torch.randn(bias)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        operands = (self.weight, x) if self.first else (x, self.weight)
        result = torch.einsum(self.equation, *operands)
        return result if self.bias is None else self.bias + result


class Product(nn.Module):
    """An einsum of a tensor with another that it computes."""

    def __init__(self, equation: str, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.equation, self.dims = equation, dims

    def forward(self, x: Tensor) -> Tensor:
        other = x.sin()
        for dim in self.dims:
            other = other.select(dim, 0)
        return torch.einsum(self.equation, x, other)


def rewritten(module: nn.Module, x: Tensor) -> tuple[GraphModule, WeightPlan]:
    """The graph with its weights, and their plan."""
    passed = run(PASSES, module, x, dim=1)
    return passed.graph_module, passed.context.weights


def error(gm: GraphModule, module: nn.Module, *shape: int) -> float:
    torch.manual_seed(1)
    x = torch.randn(BATCH, 11, *shape)
    with torch.no_grad():
        return relative_error(gm(x), module.double()(x.double()))


HEADS_OF_ROWS = (HEADS, HEAD_DIM)
PROJECTIONS = {
    "as stored": (Projected("btc,oc->bto", (OUT, WIDTH)), (WIDTH,), Constant),
    "transposed": (Projected("btc,co->bto", (WIDTH, OUT)), (WIDTH,), Permute),
    "any leading dimensions": (Projected("...i,oi->...o", (OUT, WIDTH)), (WIDTH,), Constant),
    "result left out": (Projected("btx,xy", (WIDTH, OUT)), (WIDTH,), Permute),
    "to heads": (Projected("btc,chd->bthd", (WIDTH, *HEADS_OF_ROWS)), (WIDTH,), Reshape),
    "to heads first": (Projected("btc,hcd->bhtd", (HEADS, WIDTH, HEAD_DIM)), (WIDTH,), Reshape),
    "from heads": (Projected("bthd,hdc->btc", (*HEADS_OF_ROWS, OUT)), HEADS_OF_ROWS, Reshape),
    "from swapped heads": (Projected("bthd,dhc->btc", (HEAD_DIM, HEADS, OUT)), HEADS_OF_ROWS, Reshape),
    "weight first": (Projected("vc,btc->btv", (OUT, WIDTH), first=True), (WIDTH,), Constant),
    "queries, keys and values": (Projected("btc,cshd->sbthd", (WIDTH, 3, *HEADS_OF_ROWS)), (WIDTH,), Reshape),
    "rows last": (Projected("btc,oc->obt", (OUT, WIDTH)), (WIDTH,), Constant),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_an_einsum_with_a_weight_is_a_projection(name: str) -> None:
    module, shape, kind = PROJECTIONS[name]
    gm, weights = rewritten(module, torch.randn(BATCH, 6, *shape))
    counts = op_counts(gm)
    assert counts["linear"] == 1
    assert not {"aten.einsum", "aten.matmul", "aten.flatten", "aten.unflatten"} & set(counts)
    assert [type(one) for one in weights.values()] == [kind]
    assert error(gm, module, *shape) <= 1e-5


@pytest.mark.parametrize("bias", [HEADS_OF_ROWS, (HEAD_DIM,), (1, HEAD_DIM)])
def test_a_bias_of_several_dimensions_joins_its_projection(bias: tuple[int, ...]) -> None:
    module = Projected("btc,chd->bthd", (WIDTH, *HEADS_OF_ROWS), bias)
    gm, weights = rewritten(module, torch.randn(BATCH, 6, WIDTH))
    (linear,) = (node for node in gm.graph.nodes if node.target is torch.ops.autodeploy.linear.default)
    joins = bias == HEADS_OF_ROWS
    assert (linear.args[2] is not None) == joins
    assert op_counts(gm)["aten.add"] == (not joins)
    assert len(weights) == 2
    assert error(gm, module, WIDTH) <= 1e-5


def test_two_einsums_may_read_one_weight() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(HEADS, HEADS, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("btc,ghc->btgh", x, self.weight) + torch.einsum("btc,hgc->btgh", x, self.weight)

    module = Tied()
    gm, weights = rewritten(module, torch.randn(BATCH, 6, WIDTH))
    assert op_counts(gm)["linear"] == 2
    assert len({expression for expression in weights.values() if isinstance(expression, Expression)}) == 2
    assert error(gm, module, WIDTH) <= 1e-5


NO_PROJECTIONS = {
    "a matrix for each head": Projected("bthd,hde->bthe", (*HEADS_OF_ROWS, OUT)),
    "a diagonal": Projected("bthd,dd->bthd", (HEAD_DIM, HEAD_DIM)),
    "a sum of the weight alone": Projected("bthd,ode->btho", (OUT, HEAD_DIM, HEADS)),
    "a factor for each element": Projected("bthd,d->bthd", (HEAD_DIM,)),
    "a broadcast": Projected("bthd,od->btho", (OUT, 1)),
}


@pytest.mark.parametrize("name", NO_PROJECTIONS)
def test_other_einsums_with_a_weight_are_none(name: str) -> None:
    module = NO_PROJECTIONS[name]
    gm, _ = rewritten(module, torch.randn(BATCH, 6, *HEADS_OF_ROWS))
    assert op_counts(gm)["linear"] == 0
    assert error(gm, module, *HEADS_OF_ROWS) <= 1e-5


PRODUCTS = {
    "btc,bsc->bts": ((), {"aten.matmul": 1}),
    "btc,bt->btc": ((2,), {"aten.mul": 1}),
    "btc,bt->bc": ((2,), {"aten.mul": 1, "aten.sum": 1}),
    "btc,bt->cb": ((2,), {"aten.mul": 1, "aten.sum": 1}),
    "btc,btc->b": ((), {"aten.mul": 1, "aten.sum": 1}),
    "btc,d->btcd": ((0, 0), {"aten.mul": 1}),
}


@pytest.mark.parametrize("equation", PRODUCTS)
def test_einsums_without_a_weight_are_matmuls_or_products_of_numbers(equation: str) -> None:
    dims, expected = PRODUCTS[equation]
    module = Product(equation, dims)
    gm, _ = rewritten(module, torch.randn(BATCH, 6, WIDTH))
    counts = op_counts(gm)
    named = ("aten.einsum", "aten.matmul", "aten.mul", "aten.sum")
    assert {name: counts[name] for name in named if counts[name]} == expected
    assert error(gm, module, WIDTH) <= 1e-5

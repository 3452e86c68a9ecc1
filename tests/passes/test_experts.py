"""Mixtures of experts as people write them, all to one form."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from autodeploy.passes.canonicalize_experts import CanonicalizeExperts
from autodeploy.passes.canonicalize_linears import CanonicalizeLinears
from autodeploy.passes.canonicalize_matmuls import CanonicalizeMatmuls
from autodeploy.passes.canonicalize_mlps import CanonicalizeMlps
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.passes.functionalize import Functionalize
from autodeploy.pipeline import PassReport
from autodeploy.weights import Stack, WeightPlan
from tests.graphs import run, targets

PASSES = (
    Functionalize(),
    CleanGraph(),
    CanonicalizeLinears(),
    CanonicalizeMatmuls(),
    CleanGraph(),
    CanonicalizeMlps(),
    CanonicalizeExperts(),
)
EXPERT = "autodeploy.expert_linear.default"
WIDTH, INNER, EXPERTS, CHOSEN = 8, 12, 4, 2


class Expert(nn.Module):
    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(WIDTH, INNER, bias), nn.Linear(WIDTH, INNER, bias)
        self.down = nn.Linear(INNER, WIDTH, bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class Mixture(nn.Module):
    """Routes flat rows; the forms below differ in how they compute the experts."""

    bias = False

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(Expert(self.bias) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, WIDTH)
        weights, selected = self.router(rows).softmax(-1).topk(CHOSEN, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        return self.mix(rows, selected, weights).view(x.shape)

    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        raise NotImplementedError


class IndexAdd(Mixture):
    bias = True

    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slots = torch.where(selected == number)
            out.index_add_(0, rows, expert(x[rows]) * weights[rows, slots, None])
        return out


class IndexPut(Mixture):
    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slots = (selected == number).nonzero(as_tuple=True)
            out[rows] += weights[rows, slots].unsqueeze(-1) * expert(x[rows])
        return out


class OneHotLoop(Mixture):
    """As Mixtral was written."""

    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        mask = functional.one_hot(selected, EXPERTS).permute(2, 1, 0)
        for number, expert in enumerate(self.experts):
            slots, rows = torch.where(mask[number])
            current = x[None, rows].reshape(-1, WIDTH)
            out.index_add_(0, rows, (expert(current) * weights[rows, slots, None]).to(x.dtype))
        return out


class MaskedWeights(Mixture):
    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            weight = (weights * (selected == number)).sum(-1, keepdim=True)
            out = out + expert(x) * weight
        return out


class WhereWeights(Mixture):
    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        parts = [
            expert(x) * torch.where(selected == number, weights, 0.0).sum(-1).unsqueeze(-1)
            for number, expert in enumerate(self.experts)
        ]
        out: Tensor = x + sum(parts[1:], parts[0])
        return out


class ScatteredTable(Mixture):
    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        table = x.new_zeros(x.shape[0], EXPERTS).scatter(-1, selected, weights)
        out: Tensor = table[:, 0:1] * self.experts[0](x)
        for number in range(1, EXPERTS):
            out = out + table[:, number, None] * self.experts[number](x)
        return out


class OneHotTable(Mixture):
    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        table = (functional.one_hot(selected, EXPERTS).to(x.dtype) * weights.unsqueeze(-1)).sum(1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            out += expert(x) * table[:, number : number + 1]
        return out


class AllOfThem(Mixture):
    """Without a choice of experts."""

    def forward(self, x: Tensor) -> Tensor:
        table = self.router(x).softmax(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            out += expert(x) * table[..., number : number + 1]
        return out


def optimized(module: nn.Module, x: Tensor) -> tuple[GraphModule, list[PassReport], WeightPlan]:
    passed = run(PASSES, module, x, dim=1)
    return passed.graph_module, passed.reports, passed.context.weights


def error(gm: GraphModule, module: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted, got = module.double()(x.double()), gm(x)
    return float((got - wanted).norm() / wanted.norm())


FORMS = (IndexAdd, IndexPut, OneHotLoop, MaskedWeights, WhereWeights, ScatteredTable, OneHotTable)


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_it_becomes_one(form: type[Mixture]) -> None:
    torch.manual_seed(0)
    module = form()
    gm, _, weights = optimized(module, torch.randn(1, 6, WIDTH))
    found = targets(gm)
    assert found.count(EXPERT) == 3
    assert found.count("autodeploy.linear.default") == 1  # the router
    assert not [one for one in found if "index" in one or "where" in one or "assert" in one]
    assert sum(isinstance(one, Stack) for one in weights.values()) == (6 if form.bias else 3)
    for length in (1, 11):
        assert error(gm, module, torch.randn(1, length, WIDTH)) <= 1e-5
        module.float()


def test_a_mixture_of_all_experts_is_one_and_says_so() -> None:
    torch.manual_seed(0)
    module = AllOfThem()
    gm, reports, _ = optimized(module, torch.randn(1, 6, WIDTH))
    assert targets(gm).count(EXPERT) == 3
    (miss,) = reports[-1].misses
    assert miss.reason.endswith("does not show which experts a row chose: all 4 are computed")
    assert error(gm, module, torch.randn(1, 11, WIDTH)) <= 1e-5


class Different(IndexAdd):
    """Of which one expert has another activation."""

    def __init__(self) -> None:
        super().__init__()
        self.experts[2] = nn.Sequential(nn.Linear(WIDTH, INNER), nn.ReLU(), nn.Linear(INNER, WIDTH))


class Wider(IndexAdd):
    def __init__(self) -> None:
        super().__init__()
        self.experts[1].gate = nn.Linear(WIDTH, INNER, bias=True)
        self.experts[1].up = nn.Linear(WIDTH, INNER, bias=False)


class Skipping(IndexAdd):
    """Which leaves an expert out."""

    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number in (0, 1, 3):
            rows, slots = torch.where(selected == number)
            out.index_add_(0, rows, self.experts[number](x[rows]) * weights[rows, slots, None])
        return out


class OtherRows(IndexAdd):
    """Whose last expert computes rows that chose another."""

    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows, slots = torch.where(selected == number)
            source = x if number < 3 else x.sin()
            out.index_add_(0, rows, expert(source[rows]) * weights[rows, slots, None])
        return out


class OtherWeights(MaskedWeights):
    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            chosen = weights if number else weights.sqrt()
            out = out + expert(x) * (chosen * (selected == number)).sum(-1, keepdim=True)
        return out


class Repeated(IndexPut):
    """Whose choices may name an expert twice, of which an assignment keeps one."""

    def mix(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        return super().mix(x, selected % 2, weights)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Different, "are not the same operator"),
        (Wider, "do not stack"),
        (Skipping, r"the experts are numbers \[0, 1, 3\]"),
        (OtherRows, "are rows of different tensors"),
        (OtherWeights, "weighted by different tensors"),
        (Repeated, None),
    ],
)
def test_what_is_no_mixture_of_alike_experts_stays(form: type[Mixture], reason: str | None) -> None:
    torch.manual_seed(0)
    module = form()
    gm, reports, weights = optimized(module, torch.randn(1, 6, WIDTH))
    assert EXPERT not in targets(gm)
    assert not any(isinstance(one, Stack) for one in weights.values())
    assert reason is None or re.search(reason, reports[-1].misses[0].reason)
    assert error(gm, module, torch.randn(1, 11, WIDTH)) <= 1e-5


class Gathered(nn.Module):
    """Matrices of all experts in one weight, of which every row takes its own."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, 2 * INNER, WIDTH))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, WIDTH)
        scores, selected = self.router(rows).topk(CHOSEN, -1)
        out = self.combine(rows, selected, scores.softmax(-1))
        return out.view(x.shape)

    def combine(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        raise NotImplementedError


class Einsums(Gathered):
    def combine(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        gate, up = torch.einsum("tkih,th->tki", self.up[selected], x).chunk(2, -1)
        results = torch.einsum("tkhi,tki->tkh", self.down[selected], functional.silu(gate) * up)
        return torch.einsum("tkh,tk->th", results, weights)


class Matmuls(Gathered):
    def combine(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        gate, up = (self.up[selected] @ x[:, None, :, None]).squeeze(-1).chunk(2, -1)
        results = (self.down[selected] @ (functional.silu(gate) * up).unsqueeze(-1)).squeeze(-1)
        return (results * weights.unsqueeze(-1)).sum(1)


class FlatBatches(Gathered):
    def combine(self, x: Tensor, selected: Tensor, weights: Tensor) -> Tensor:
        flat = selected.reshape(-1)
        rows = x.repeat_interleave(CHOSEN, 0).unsqueeze(-1)
        gate, up = torch.bmm(self.up[flat], rows).squeeze(-1).chunk(2, -1)
        results = torch.bmm(self.down[flat], (functional.silu(gate) * up).unsqueeze(-1)).squeeze(-1)
        return (results.view(-1, CHOSEN, WIDTH) * weights.unsqueeze(-1)).sum(1)


@pytest.mark.parametrize("form", [Einsums, Matmuls, FlatBatches])
def test_products_with_gathered_weights_are_of_experts(form: type[Gathered]) -> None:
    torch.manual_seed(0)
    module = form()
    gm, _, _ = optimized(module, torch.randn(1, 6, WIDTH))
    found = targets(gm)
    assert found.count(EXPERT) == 2
    assert "aten.index.Tensor" not in found
    assert error(gm, module, torch.randn(1, 11, WIDTH)) <= 1e-5


class AllAtOnce(nn.Module):
    """Matrices of all experts in one weight, all of them multiplied, and a table that is zero for most."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, 2 * INNER, WIDTH))
        self.up_bias = nn.Parameter(torch.randn(EXPERTS, 2 * INNER))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.view(-1, WIDTH)
        return self.combine(rows, self.shares(self.router(rows))).view(x.shape)

    def shares(self, scores: Tensor) -> Tensor:
        weights, selected = scores.topk(CHOSEN, -1)
        return torch.zeros_like(scores).scatter(-1, selected, weights.softmax(-1))

    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def gated(both: Tensor) -> Tensor:
        gate, up = both.chunk(2, -1)
        return functional.silu(gate) * up


class DenseEinsums(AllAtOnce):
    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        both = torch.einsum("th,eih->tei", x, self.up)
        return torch.einsum("teh,te->th", torch.einsum("tei,ehi->teh", self.gated(both), self.down), table)


class ExpertsFirst(AllAtOnce):
    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        both = torch.einsum("eih,th->eti", self.up, x) + self.up_bias[:, None]
        results = torch.einsum("eti,ehi->eth", self.gated(both), self.down)
        return (results * table.t().unsqueeze(-1)).sum(0)


class DenseBias(AllAtOnce):
    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        both = torch.einsum("th,eih->tei", x, self.up) + self.up_bias
        results = torch.einsum("tei,ehi->teh", self.gated(both), self.down)
        return (table[..., None] * results).sum(dim=1)


class BatchedExperts(AllAtOnce):
    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        both = torch.bmm(x.expand(EXPERTS, *x.shape), self.up.transpose(1, 2))
        results = torch.bmm(self.gated(both), self.down.transpose(1, 2))
        return torch.einsum("eth,te->th", results, table)


class SpreadRows(AllAtOnce):
    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        both = x.unsqueeze(0) @ self.up.mT
        results = (self.gated(both) @ self.down.mT).transpose(0, 1)
        return (results * table.unsqueeze(-1)).sum(-2)


@pytest.mark.parametrize("form", [DenseEinsums, ExpertsFirst, DenseBias, BatchedExperts, SpreadRows])
def test_all_experts_at_once_are_the_chosen_ones(form: type[AllAtOnce]) -> None:
    torch.manual_seed(0)
    module = form()
    gm, _, _ = optimized(module, torch.randn(1, 6, WIDTH))
    found = targets(gm)
    assert found.count(EXPERT) == 2
    assert found.count("autodeploy.linear.default") == 1  # the router
    assert not {"aten.einsum.default", "aten.matmul.default", "aten.bmm.default", "aten.scatter.src"} & set(found)
    assert error(gm, module, torch.randn(1, 11, WIDTH)) <= 1e-5


class SharesOfAll(DenseEinsums):
    def shares(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)


class OtherSums(DenseEinsums):
    """Which sums up its features where it should sum up experts."""

    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        results = torch.einsum("th,eih->tei", x, self.up)
        return (results * table.unsqueeze(-1)).sum(-1).repeat(1, WIDTH // EXPERTS)


class MixedFeatures(DenseEinsums):
    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        both = self.gated(torch.einsum("th,eih->tei", x, self.up)).flip(1)
        return torch.einsum("teh,te->th", torch.einsum("tei,ehi->teh", both, self.down), table)


class PartsOfExperts(DenseEinsums):
    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        both = self.gated(torch.einsum("th,eih->tei", x, self.up))
        both = torch.cat(both.chunk(2, 1)[::-1], 1)
        return torch.einsum("teh,te->th", torch.einsum("tei,ehi->teh", both, self.down), table)


class RowsAsExperts(DenseEinsums):
    """Whose reshape parts rows, and no outputs."""

    def combine(self, x: Tensor, table: Tensor) -> Tensor:
        results = (x @ self.down[0].detach()).repeat(1, EXPERTS).view(-1, EXPERTS, INNER)[..., :WIDTH]
        return (results * table.unsqueeze(-1)).sum(1)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (RowsAsExperts, "is no projection of all experts"),
        (SharesOfAll, None),
        (OtherSums, None),
        (MixedFeatures, "neither a projection of all experts nor pointwise"),
        (PartsOfExperts, "neither a projection of all experts nor pointwise"),
    ],
)
def test_what_mixes_experts_stays(form: type[AllAtOnce], reason: str | None) -> None:
    torch.manual_seed(0)
    module = form()
    gm, reports, _ = optimized(module, torch.randn(1, 6, WIDTH))
    assert EXPERT not in targets(gm)
    assert [reason in miss.reason for report in reports for miss in report.misses if reason] == [True] * bool(reason)
    assert error(gm, module, torch.randn(1, 11, WIDTH)) <= 1e-5

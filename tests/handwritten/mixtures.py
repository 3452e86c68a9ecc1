"""Mixtures of experts: one expert after the other, all of them under a mask, and only the chosen ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, INNER, EXPERTS, CHOSEN = 32, 24, 4, 2


class Router(nn.Module):
    """The chosen experts of each token `[B, T, CHOSEN]`, and their weights, which sum to one."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = functional.softmax(self.gate(x), dim=-1)
        weights, chosen = torch.topk(probabilities, CHOSEN, dim=-1)
        return weights / weights.sum(-1, keepdim=True), chosen


class Expert(nn.Module):
    """A gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(WIDTH, INNER, bias=False), nn.Linear(WIDTH, INNER, bias=False)
        self.w2 = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return out


class LoopMixture(nn.Module):
    """Every expert on every token, weighted by nothing where it was not chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = Router(), nn.ModuleList(Expert() for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            share = torch.where(chosen == index, weights, 0.0).sum(-1, keepdim=True)
            out = out + share * expert(x)
        return out


class Stacked(nn.Module):
    """The weights of all experts, stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router()
        self.gate, self.up = (nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH) / 6) for _ in range(2))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER) / 5)


class MaskedMixture(Stacked):
    """All experts in one einsum, and a matrix of shares that is mostly zero."""

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x)
        shares = torch.zeros(*x.shape[:2], EXPERTS, device=x.device, dtype=x.dtype).scatter(-1, chosen, weights)
        gate = torch.einsum("bth,eih->btei", x, self.gate)
        up = torch.einsum("bth,eih->btei", x, self.up)
        each = torch.einsum("btei,ehi->bteh", functional.silu(gate) * up, self.down)
        return torch.einsum("bteh,bte->bth", each, shares)


class GatheredMixture(Stacked):
    """The weights of the chosen experts, gathered for each token and multiplied as a batch."""

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x)
        rows, experts = x.reshape(-1, 1, WIDTH, 1), chosen.reshape(-1, CHOSEN)
        gate = torch.matmul(self.gate[experts], rows)
        up = torch.matmul(self.up[experts], rows)
        each = torch.matmul(self.down[experts], functional.silu(gate) * up).squeeze(-1)
        mixed: Tensor = (each * weights.reshape(-1, CHOSEN, 1)).sum(1).view(x.shape)
        return mixed

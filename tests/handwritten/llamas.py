"""Decoders as people write them: the same model in many hands."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, KEY_HEADS, HEAD_DIM, INNER, VOCABULARY = 32, 4, 2, 8, 48, 64


def frequencies(head_dim: int = HEAD_DIM) -> Tensor:
    """The turns per position of each pair of elements `[head_dim / 2]`."""
    return 1.0 / (10000.0 ** (torch.arange(0, head_dim, 2).float() / head_dim))


class RmsNorm(nn.Module):
    """Zhang and Sennrich's norm, computed in float32 at least."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.randn(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class SwiGlu(nn.Module):
    """A gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(WIDTH, INNER, bias=False), nn.Linear(WIDTH, INNER, bias=False)
        self.w2 = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return out


class Layer(nn.Module):
    """A decoder layer around any attention and MLP."""

    def __init__(self, attention: nn.Module, mlp: nn.Module | None = None) -> None:
        super().__init__()
        self.attention, self.mlp = attention, mlp or SwiGlu()
        self.norm1, self.norm2 = RmsNorm(WIDTH), RmsNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Decoder(nn.Module):
    """Tokens `[B, T]` to logits, through layers that each know the positions."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embedding, self.layers = nn.Embedding(VOCABULARY, WIDTH), nn.ModuleList(layers)
        self.norm, self.head = RmsNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def angles(x: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin `[T, head_dim]` of every position of `x [B, T, …]`, for halves that rotate."""
    positions = torch.arange(x.shape[1], device=x.device)
    freqs = torch.outer(positions.to(turns.dtype), turns)
    both = torch.cat((freqs, freqs), dim=-1)
    return both.cos(), both.sin()


def turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class EinsumAttention(nn.Module):
    """Grouped-query attention with every product an einsum, and parameters of its own shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.wq = nn.Parameter(torch.randn(WIDTH, HEADS, HEAD_DIM) / 6)
        self.wk = nn.Parameter(torch.randn(WIDTH, KEY_HEADS, HEAD_DIM) / 6)
        self.wv = nn.Parameter(torch.randn(WIDTH, KEY_HEADS, HEAD_DIM) / 6)
        self.wo = nn.Parameter(torch.randn(HEADS, HEAD_DIM, WIDTH) / 6)
        self.turns = nn.Buffer(frequencies())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btc,chd->bthd", x, weight) for weight in (self.wq, self.wk, self.wv))
        cos, sin = (one[None, :, None, :] for one in angles(x, self.turns))
        q, k = q * cos + turned(q) * sin, k * cos + turned(k) * sin
        k, v = (one.repeat_interleave(HEADS // KEY_HEADS, dim=2) for one in (k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(HEAD_DIM)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v)
        return torch.einsum("bthd,hdc->btc", mixed, self.wo)


class SdpaAttention(nn.Module):
    """PyTorch's own attention over heads that come first."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = nn.Linear(WIDTH, HEADS * HEAD_DIM, bias=False), nn.Linear(HEADS * HEAD_DIM, WIDTH, bias=False)
        self.k = nn.Linear(WIDTH, KEY_HEADS * HEAD_DIM, bias=False)
        self.v = nn.Linear(WIDTH, KEY_HEADS * HEAD_DIM, bias=False)
        self.turns = nn.Buffer(frequencies())

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, HEADS, HEAD_DIM).transpose(1, 2)
        k = self.k(x).view(batch, length, KEY_HEADS, HEAD_DIM).transpose(1, 2)
        v = self.v(x).view(batch, length, KEY_HEADS, HEAD_DIM).transpose(1, 2)
        cos, sin = angles(x, self.turns)
        q, k = q * cos + turned(q) * sin, k * cos + turned(k) * sin
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out: Tensor = self.o(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out


class SplitAttention(nn.Module):
    """One projection, split into queries, keys and values; an added mask; key heads repeated by expand."""

    def __init__(self) -> None:
        super().__init__()
        self.wqkv = nn.Linear(WIDTH, (HEADS + 2 * KEY_HEADS) * HEAD_DIM)
        self.out = nn.Linear(HEADS * HEAD_DIM, WIDTH)
        self.turns = nn.Buffer(frequencies())

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        sizes = [HEADS * HEAD_DIM, KEY_HEADS * HEAD_DIM, KEY_HEADS * HEAD_DIM]
        q, k, v = (one.view(batch, length, -1, HEAD_DIM).transpose(1, 2) for one in self.wqkv(x).split(sizes, dim=-1))
        cos, sin = (one[None, None] for one in angles(x, self.turns))
        q, k = q * cos + turned(q) * sin, k * cos + turned(k) * sin
        k, v = self.repeated(k), self.repeated(v)
        mask = torch.full((length, length), float("-inf"), device=x.device, dtype=x.dtype).triu(1)
        scores = torch.matmul(q, k.transpose(-1, -2)) * HEAD_DIM**-0.5 + mask
        mixed = torch.matmul(torch.softmax(scores, dim=-1), v)
        out: Tensor = self.out(mixed.transpose(1, 2).contiguous().view(batch, length, HEADS * HEAD_DIM))
        return out

    def repeated(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        wide = x[:, :, None].expand(batch, heads, HEADS // KEY_HEADS, length, width)
        return wide.reshape(batch, HEADS, length, width)


class ComplexAttention(nn.Module):
    """Neighbouring elements turned as complex numbers, as Meta's Llama has it."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.wv, self.wo = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.turns = nn.Buffer(frequencies())

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (w(x).view(batch, length, HEADS, HEAD_DIM) for w in (self.wq, self.wk, self.wv))
        freqs = torch.outer(torch.arange(length, device=x.device).to(self.turns.dtype), self.turns)
        turns = torch.polar(torch.ones_like(freqs), freqs).view(1, length, 1, HEAD_DIM // 2)
        q, k = self.rotated(q, turns), self.rotated(k, turns)
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(HEAD_DIM)
        scores = scores + torch.full((length, length), float("-inf"), device=x.device, dtype=x.dtype).triu(diagonal=1)
        mixed = torch.matmul(functional.softmax(scores, dim=-1), v)
        out: Tensor = self.wo(mixed.transpose(1, 2).reshape(batch, length, -1))
        return out

    @staticmethod
    def rotated(x: Tensor, turns: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(3)


class GemmaNorm(nn.Module):
    """A norm whose stored weight is less by one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width) / 4)

    def forward(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return normed * (1.0 + self.weight)


class CappedAttention(nn.Module):
    """Attention with a window and scores that tanh bounds, after norms of queries and keys."""

    def __init__(self, window: int = 4, cap: float = 5.0) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.q_norm, self.k_norm = GemmaNorm(HEAD_DIM), GemmaNorm(HEAD_DIM)
        self.window, self.cap = window, cap
        self.turns = nn.Buffer(frequencies())

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (one.view(batch, length, HEADS, HEAD_DIM) for one in self.qkv(x).chunk(3, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        cos, sin = (one[:, None, :] for one in angles(x, self.turns))
        q, k = q * cos + turned(q) * sin, k * cos + turned(k) * sin
        q, k, v = (one.permute(0, 2, 1, 3) for one in (q, k, v))
        scores = (q @ k.mT) * 0.25
        scores = torch.tanh(scores / self.cap) * self.cap
        positions = torch.arange(length, device=x.device)
        distance = positions[:, None] - positions[None, :]
        visible = (distance >= 0) & (distance < self.window)
        weights = torch.where(visible, scores, float("-inf")).softmax(-1)
        mixed = (weights @ v).permute(0, 2, 1, 3).reshape(batch, length, WIDTH)
        out: Tensor = self.o(mixed)
        return out


class Gemma(nn.Module):
    """Scaled embeddings, norms before and after each branch, tied and capped logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.attention = nn.Embedding(VOCABULARY, WIDTH), CappedAttention()
        self.norms = nn.ModuleList(GemmaNorm(WIDTH) for _ in range(5))
        self.gate, self.up = nn.Linear(WIDTH, INNER, bias=False), nn.Linear(WIDTH, INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        before, after, before_mlp, after_mlp, last = self.norms
        x = self.embedding(tokens) * math.sqrt(WIDTH)
        x = x + after(self.attention(before(x)))
        h = before_mlp(x)
        x = x + after_mlp(self.down(functional.gelu(self.gate(h), approximate="tanh") * self.up(h)))
        logits: Tensor = 8.0 * torch.tanh(functional.linear(last(x), self.embedding.weight) / 8.0)
        return logits

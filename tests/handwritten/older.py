"""Blocks from before rotary embeddings: GPT-2, BERT, T5, ViT, ALiBi."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, HEAD_DIM, INNER, MAX_LEN = 32, 4, 8, 64, 16


class Gpt2Block(nn.Module):
    """A block of GPT-2 with a triangle of ones as a buffer."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.c_fc, self.mlp_proj = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("mask", torch.tril(torch.ones(MAX_LEN, MAX_LEN)).view(1, 1, MAX_LEN, MAX_LEN))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(self.ln_1(x))
        h = self.c_fc(self.ln_2(x))
        h = 0.5 * h * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (h + 0.044715 * torch.pow(h, 3.0))))
        out: Tensor = x + self.dropout(self.mlp_proj(h))
        return out

    def attend(self, x: Tensor) -> Tensor:
        batch, length, width = x.size()
        q, k, v = self.c_attn(x).split(width, dim=2)
        q, k, v = (one.view(batch, length, HEADS, width // HEADS).transpose(1, 2) for one in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.mask[:, :, :length, :length] == 0, float("-inf"))
        mixed = self.dropout(functional.softmax(scores, dim=-1)) @ v
        out: Tensor = self.dropout(self.c_proj(mixed.transpose(1, 2).contiguous().view(batch, length, width)))
        return out


class VitBlock(nn.Module):
    """A block of a vision transformer: every patch sees every other one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.fc1, self.fc2 = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, patches, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, patches, 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = ((q * HEAD_DIM**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(batch, patches, width))
        out: Tensor = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return out


class BertLayer(nn.Module):
    """A layer of BERT: norms after the residuals, and attention to all tokens that a mask does not hide."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.dense, self.norm1, self.norm2 = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.intermediate, self.output = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        hidden = (1.0 - kept[:, None, None, :].to(x.dtype)) * -10000.0
        q, k, v = (self.heads(one(x)) for one in (self.query, self.key, self.value))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(HEAD_DIM) + hidden
        mixed = torch.matmul(scores.softmax(dim=-1), v).permute(0, 2, 1, 3).contiguous()
        x = self.norm1(self.dense(mixed.view(*x.shape)) + x)
        h = self.intermediate(x)
        h = h * 0.5 * (1.0 + torch.erf(h / math.sqrt(2.0)))
        out: Tensor = self.norm2(self.output(h) + x)
        return out

    def heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], HEADS, HEAD_DIM).permute(0, 2, 1, 3)


class T5Layer(nn.Module):
    """An encoder layer of T5: a bias for each distance, scores that are not scaled, norms without a mean or a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.wi, self.wo = nn.Linear(WIDTH, INNER, bias=False), nn.Linear(INNER, WIDTH, bias=False)
        self.distances = nn.Embedding(2 * MAX_LEN + 1, HEADS)

    def forward(self, x: Tensor) -> Tensor:
        h = self.normed(x, self.norm1)
        q, k, v = (one(h).view(*x.shape[:2], HEADS, HEAD_DIM).transpose(1, 2) for one in (self.q, self.k, self.v))
        positions = torch.arange(x.shape[1], device=x.device)
        distance = (positions[None, :] - positions[:, None]).clamp(-MAX_LEN, MAX_LEN) + MAX_LEN
        bias = self.distances(distance).permute(2, 0, 1).unsqueeze(0)
        weights = functional.softmax(torch.matmul(q, k.transpose(3, 2)) + bias, dim=-1)
        x = x + self.o(torch.matmul(weights, v).transpose(1, 2).contiguous().view(*x.shape))
        out: Tensor = x + self.wo(functional.relu(self.wi(self.normed(x, self.norm2))))
        return out

    def normed(self, x: Tensor, weight: Tensor) -> Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return weight * (x * torch.rsqrt(variance + 1e-6))


class AlibiBlock(nn.Module):
    """A causal block that knows distances only from a slope for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(WIDTH, bias=False),
            nn.Linear(WIDTH, 3 * WIDTH),
            nn.Linear(WIDTH, WIDTH),
        )
        self.slopes = nn.Buffer(2.0 ** -(torch.arange(1, HEADS + 1) * 8.0 / HEADS))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            one.view(batch, length, HEADS, HEAD_DIM).transpose(1, 2) for one in self.qkv(self.norm(x)).chunk(3, -1)
        )
        positions = torch.arange(length, device=x.device)
        distance = positions[None, :] - positions[:, None]
        bias = self.slopes[:, None, None] * distance
        bias = bias.masked_fill(distance > 0, float("-inf"))
        weights = (q @ k.transpose(-1, -2) / math.sqrt(HEAD_DIM) + bias).softmax(-1)
        mixed: Tensor = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return mixed

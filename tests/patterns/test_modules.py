"""Modules as models write them: the pattern is found, and is not found in its near misses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from autodeploy.patterns import PATTERNS
from autodeploy.patterns.activations import ACTIVATIONS, GATED
from autodeploy.patterns.convolutions import CONVOLUTION_ACTIVATIONS as CONVOLUTIONS
from autodeploy.patterns.embeddings import EMBEDDINGS
from autodeploy.patterns.gathered_weights import GATHERED_WEIGHTS
from autodeploy.patterns.linears import ACTIVATED, BIASES, LINEARS
from autodeploy.patterns.logits import LOGITS
from autodeploy.patterns.norms import HEAD_NORMS, NORMS, UNSCALED_NORMS
from autodeploy.patterns.outer_products import OUTER_PRODUCTS
from autodeploy.patterns.rotary import ROTARY
from autodeploy.patterns.rotary_partial import PARTIAL_ROTARY
from autodeploy.patterns.rotary_parts import ROTARY_PARTS
from autodeploy.patterns.rotary_rows import ROTARY_ROWS
from autodeploy.patterns.rotary_tables import ROTARY_TABLES
from autodeploy.rewrite import apply_rules
from tests.graphs import clean, trace
from tests.patterns import attention_samples

ROPES = (*ROTARY, *ROTARY_PARTS, *ROTARY_ROWS)
GROUPS = (
    LINEARS,
    BIASES,
    NORMS,
    UNSCALED_NORMS,
    HEAD_NORMS,
    ROPES,
    PARTIAL_ROTARY,
    OUTER_PRODUCTS,
    ACTIVATIONS,
    GATED,
    LOGITS,
    ROTARY_TABLES,
    EMBEDDINGS,
    ACTIVATED,
    CONVOLUTIONS,
    GATHERED_WEIGHTS,
)
WIDTH, HEADS = 8, 2
Function = Callable[["Weights", Tensor], Tensor]


class Weights(nn.Module):
    """A function of some tokens, with weights at hand."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.scale, self.shift = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.matrix, self.column = nn.Parameter(torch.randn(WIDTH, WIDTH)), nn.Parameter(torch.randn(1))
        self.up = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.frequencies = nn.Buffer(torch.rand(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)

    def heads(self, x: Tensor) -> Tensor:
        """Token-major heads `[1, T, HEADS, 4]`."""
        return x.view(1, -1, HEADS, WIDTH // HEADS)

    def angles(self, x: Tensor, dim: int, parts: int = 2) -> tuple[Tensor, Tensor]:
        """cos and sin for each token, to be broadcast over the heads at `dim`; a token's angle is its first number."""
        freqs = x[..., :1] * self.frequencies[: parts // 2 * 2]
        freqs = torch.cat((freqs, freqs), -1) if parts == 2 else freqs
        return freqs.cos().unsqueeze(dim), freqs.sin().unsqueeze(dim)


def found(gm: GraphModule) -> Counter[str]:
    """How often each pattern applied, group after group as the passes do."""
    return sum((apply_rules(gm, rules, lambda: True).applied for rules in GROUPS), Counter())


def rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rms_rounded(x: Tensor) -> Tensor:
    """DeepSeek V4: the factor is rounded before it multiplies."""
    return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6).to(x.dtype)


def halves(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def chunks_swapped(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def pairs(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)


def turn(w: Weights, x: Tensor, *, token_major: bool = False, turned: Callable[[Tensor], Tensor] = halves) -> Tensor:
    h = w.heads(x) if token_major else w.heads(x).transpose(1, 2)
    cos, sin = w.angles(x, 2 if token_major else 1)
    return (h.float() * cos.float() + turned(h.float()) * sin.float()).to(h.dtype)


def turn_some(w: Weights, x: Tensor, *, token_major: bool = False, swapped: bool = False) -> Tensor:
    h = torch.cat((w.heads(x), w.heads(x).sin()), -1)
    h = h if token_major else h.transpose(1, 2)
    cos, sin = w.angles(x, 2 if token_major else 1)
    rotated, passed = h[..., :4], h[..., 4:]
    out = rotated * cos + halves(rotated) * sin
    return torch.cat((passed, out) if swapped else (out, passed), -1)


Turned = Callable[[Tensor, Tensor, Tensor], Tensor]


def turn_parts(w: Weights, x: Tensor, turned: Turned, heads_dim: int = 1) -> Tensor:
    """Heads that `turned(heads, cos, sin)` turns by one angle for each pair."""
    h = w.heads(x).transpose(1, 2) if heads_dim == 1 else w.heads(x)
    freqs = (x[..., :1] * w.frequencies).unsqueeze(heads_dim)
    return turned(h, freqs.cos(), freqs.sin())


def chunked(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = torch.chunk(h, 2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def sliced(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = h[..., :2].float(), h[..., 2:].float()
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).type_as(h)


def gathered(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = h[..., 0::2], h[..., 1::2]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def neighbours(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pair = h.float().reshape(*h.shape[:-1], -1, 2)
    first, second = pair[..., 0] * cos - pair[..., 1] * sin, pair[..., 1] * cos + pair[..., 0] * sin
    return torch.stack((first, second), dim=-1).flatten(3).type_as(h)


def unbound(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = h.view(*h.shape[:-1], 2, 2).unbind(-1)
    return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)


def stacked(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = h[..., 0::2], h[..., 1::2]
    return torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)


def mirrored(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = h.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin - second * cos), dim=-1)


def as_complex(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pair = torch.view_as_complex(h.float().reshape(*h.shape[:-1], -1, 2))
    return torch.view_as_real(pair * torch.complex(cos, sin)).flatten(3).type_as(h)


def as_conjugate(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pair = torch.view_as_complex(h.reshape(*h.shape[:-1], -1, 2))
    return torch.view_as_real(pair.conj() * torch.complex(cos, sin)).flatten(3)


def by_table(w: Weights, x: Tensor, turned: Callable[[Tensor], Tensor] = halves) -> Tensor:
    h = w.heads(x).transpose(1, 2)
    cos, sin = (angles[0, 0] for angles in w.angles(x, 1))
    return h * cos + turned(h) * sin


def in_every_other(w: Weights, x: Tensor) -> Tensor:
    """GPT-J: angles repeated for each pair, after they were given a dimension of heads."""
    h, freqs = w.heads(x), x[..., :1] * w.frequencies
    cos, sin = (torch.repeat_interleave(angles[:, :, None, :], 2, 3) for angles in (freqs.cos(), freqs.sin()))
    return h * cos + pairs(h) * sin


def angles_by_matmul(w: Weights, x: Tensor) -> Tensor:
    """Llama of transformers 5.17: a column of frequencies, a row of positions."""
    column = w.frequencies[None, :, None].float().expand(x.shape[0], -1, 1)
    positions = x[..., 0].to(torch.int32)
    return (column @ positions[:, None, :].float()).transpose(1, 2)


def numbers(x: Tensor) -> Tensor:
    """A whole number for each token, from 0 to WIDTH - 1."""
    return (x[..., 0] * 10).to(torch.int64) % WIDTH


Spread = Callable[[Tensor], Tensor]


def tables(w: Weights, positions: Tensor, angles: Spread, factors: tuple[float, float], spread: Spread) -> Tensor:
    """The cosines and sines of spread angles, scaled, and spread themselves."""
    turned = angles(positions[..., None].float() * w.frequencies)
    return torch.cat((spread(turned.cos() * factors[0]), spread(turned.sin() * factors[1])), -1)


def once(x: Tensor) -> Tensor:
    return x


def twice(x: Tensor, dim: int = -1) -> Tensor:
    return torch.cat((x, x), dim)


def each_twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1)


def with_heads(spread: Spread) -> Spread:
    return lambda x: spread(x.unsqueeze(1)).squeeze(-3)


def centred(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) * torch.rsqrt((x - mean).pow(2).mean(-1, keepdim=True) + 1e-5)


def gelu_written(x: Tensor, cubic: float = 0.044715) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + cubic * torch.pow(x, 3.0))))


def gated_halves(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return functional.silu(gate) * up


def own_matrices(w: Weights, x: Tensor) -> Tensor:
    """Of two matrices, the one that each token chooses: `[T, 8, 8]`."""
    return torch.stack((w.matrix, w.up))[(x[0, :, 0] > 0).long()]


def own_matrix_pairs(w: Weights, x: Tensor) -> Tensor:
    """Two matrices for each token: `[T, 2, 8, 8]`."""
    return torch.stack((w.matrix, w.up))[(x[0, :, :2] > 0).long()]


def read_twice(x: Tensor) -> Tensor:
    return torch.cat((functional.relu(x), x), dim=-1)


def gelu_of_bloom(x: Tensor) -> Tensor:
    return x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))


def varied(x: Tensor, correction: int = 0) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, correction=correction) + 1e-5)


def varied_at_once(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-5)


def convolved(w: Weights, x: Tensor) -> Tensor:
    """A convolution with a kernel of one token, as the pass for convolutions leaves it."""
    channels = x.transpose(1, 2)
    out: Tensor = torch.ops.autodeploy.convolution(channels, w.matrix.unsqueeze(-1), w.shift, [1], [0], [1], 1)
    return out


IS: dict[str, list[Function]] = {
    "linear": [
        lambda w, x: functional.linear(x, w.matrix),
        lambda w, x: functional.linear(x, w.matrix, w.shift),
    ],
    "linear_by_matmul": [lambda w, x: x @ w.matrix.T, lambda w, x: torch.matmul(x, w.matrix.transpose(0, 1))],
    "linear_with_bias": [lambda w, x: x @ w.matrix.t() + w.shift, lambda w, x: w.shift + functional.linear(x, w.up)],
    "rms_norm": [
        lambda w, x: w.scale * rms(x.float()).to(x.dtype),
        lambda w, x: rms(x) * w.scale,
        lambda w, x: x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * w.scale,
        lambda w, x: w.scale * (x * torch.pow(x.pow(2).mean(-1, keepdim=True) + 1e-6, -0.5)),
    ],
    "rms_norm_wide_scale": [lambda w, x: (w.scale.float() * rms(x.half().float())).half()],
    "rms_norm_offset": [
        lambda w, x: (rms(x.float()) * (1.0 + w.scale.float())).type_as(x),
        lambda w, x: rms(x) * (w.scale + 1),
    ],
    "rms_norm_unscaled": [
        lambda w, x: rms(x),
        lambda w, x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(),
        lambda w, x: rms_rounded(x.half()),
    ],
    "rms_norm_builtin": [lambda w, x: functional.rms_norm(x, (WIDTH,), w.scale, 1e-6)],
    "rms_norm_builtin_unscaled": [lambda w, x: functional.rms_norm(x, (WIDTH,), None, 1e-6)],
    "rms_norm_of_heads": [
        lambda w, x: rms(w.heads(x).transpose(1, 2)) * w.scale[:4].contiguous(),
    ],
    "layer_norm": [
        lambda w, x: functional.layer_norm(x, (WIDTH,), w.scale, w.shift),
        lambda w, x: functional.layer_norm(x, (WIDTH,), w.scale),
    ],
    "layer_norm_unscaled": [lambda w, x: functional.layer_norm(x, (WIDTH,))],
    "layer_norm_by_hand": [
        lambda w, x: (w.scale.float() * centred(x.float())).to(x.dtype),
        lambda w, x: w.scale * varied(x),
        lambda w, x: varied_at_once(x) * w.scale,
    ],
    "layer_norm_by_hand_biased": [
        lambda w, x: w.scale * centred(x) + w.shift,
        lambda w, x: w.shift + varied(x) * w.scale,
        lambda w, x: (w.scale * varied_at_once(x.float()) + w.shift).to(x.dtype),
    ],
    "layer_norm_by_hand_unscaled": [lambda w, x: centred(x), lambda w, x: varied(x)],
    "layer_norm_of_heads_by_hand": [lambda w, x: w.matrix.view(-1, 4)[:HEADS].contiguous() * centred(w.heads(x))],
    "layer_norm_of_heads": [
        lambda w, x: functional.layer_norm(w.heads(x).transpose(1, 2), (4,), w.scale[:4].clone(), w.shift[:4].clone()),
        lambda w, x: functional.layer_norm(w.heads(x).transpose(1, 2), (4,)),
    ],
    "rope": [turn, lambda w, x: turn(w, x, turned=chunks_swapped)],
    "rope_by_table": [by_table],
    "rope_backwards": [lambda w, x: turn(w, x, turned=lambda h: torch.cat((h[..., 2:], -h[..., :2]), -1))],
    "rope_of_parts": [lambda w, x: turn_parts(w, x, chunked), lambda w, x: turn_parts(w, x, sliced)],
    "rope_of_parts_token_major": [lambda w, x: turn_parts(w, x, chunked, 2)],
    "rope_of_neighbours": [lambda w, x: turn_parts(w, x, neighbours), lambda w, x: turn_parts(w, x, unbound)],
    "rope_of_neighbours_token_major": [lambda w, x: turn_parts(w, x, stacked, 2)],
    "rope_of_pairs_of_rows": [lambda w, x: turn_parts(w, x, neighbours, 2), lambda w, x: turn_parts(w, x, unbound, 2)],
    "rope_of_neighbours_to_halves": [lambda w, x: turn_parts(w, x, gathered)],
    "rope_complex": [lambda w, x: turn_parts(w, x, as_complex)],
    "rope_complex_of_rows": [lambda w, x: turn_parts(w, x, as_complex, 2)],
    "rope_token_major": [lambda w, x: turn(w, x, token_major=True)],
    "rope_interleaved": [lambda w, x: turn(w, x, turned=pairs)],
    "rope_interleaved_token_major": [lambda w, x: turn(w, x, token_major=True, turned=pairs), in_every_other],
    "rope_partial": [turn_some],
    "rope_partial_token_major": [lambda w, x: turn_some(w, x, token_major=True)],
    "angles_by_matmul": [angles_by_matmul],
    "rotary_tables": [lambda w, x: tables(w, numbers(x), twice, (1.0, 1.0), once)],
    "rotary_tables_scaled": [lambda w, x: tables(w, numbers(x), twice, (1.5, 1.5), once)],
    "rotary_tables_doubled": [lambda w, x: tables(w, numbers(x), once, (1.5, 1.5), with_heads(twice))],
    "rotary_tables_of_pairs": [lambda w, x: tables(w, numbers(x), each_twice, (1.0, 1.0), once)],
    "rotary_tables_respread": [
        lambda w, x: tables(w, numbers(x), twice, (1.0, 1.0), with_heads(lambda one: each_twice(one[..., :2])))
    ],
    "embedding": [lambda w, x: functional.embedding(numbers(x), w.matrix)],
    "outer_product": [
        lambda w, x: x[..., :1] @ x[:, :1],
        lambda w, x: (x[0, :, :1] @ w.scale[None, :]).sin(),
    ],
    "silu": [lambda w, x: functional.silu(x), lambda w, x: torch.sigmoid(x) * x],
    "gelu": [
        lambda w, x: functional.gelu(x),
        lambda w, x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
        lambda w, x: 0.5 * (x * (1.0 + torch.erf(x * (1.0 / math.sqrt(2.0))))),
    ],
    "gelu_tanh": [
        lambda w, x: functional.gelu(x, approximate="tanh"),
        lambda w, x: gelu_written(x),
        lambda w, x: gelu_of_bloom(x),
        lambda w, x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
    ],
    "gelu_quick": [lambda w, x: x * torch.sigmoid(1.702 * x)],
    "relu": [lambda w, x: functional.relu(x)],
    "relu_squared": [lambda w, x: functional.relu(x).square(), lambda w, x: torch.pow(functional.relu(x), 2)],
    "gated_activation": [
        lambda w, x: functional.silu(functional.linear(x, w.matrix)) * functional.linear(x, w.up),
        lambda w, x: functional.linear(x, w.up) * functional.gelu(functional.linear(x, w.matrix)),
        lambda w, x: gated_halves(functional.linear(x, w.matrix)),
    ],
    "gated_sigmoid": [lambda w, x: functional.linear(x, w.up) * torch.sigmoid(functional.linear(x, w.matrix))],
    "glu": [lambda w, x: functional.glu(x, -1)],
    "linear_activation": [
        lambda w, x: functional.relu(functional.linear(x, w.matrix)),
        lambda w, x: gelu_written(functional.linear(x, w.matrix, w.shift)),
    ],
    "gathered_matmul": [
        lambda w, x: (own_matrices(w, x) @ x[0].unsqueeze(-1)).squeeze(-1),
        lambda w, x: torch.bmm(own_matrices(w, x), x[0].unsqueeze(2)).squeeze(2),
        lambda w, x: (own_matrix_pairs(w, x) @ x[0][:, None, :, None]).squeeze(-1),
    ],
    "gathered_row_matmul": [
        lambda w, x: (x[0].unsqueeze(-2) @ own_matrices(w, x)).squeeze(1),
        lambda w, x: (x[0][:, None, None] @ own_matrix_pairs(w, x)).squeeze(-2),
        lambda w, x: x[0, :1].unsqueeze(0) @ own_matrices(w, x),  # the same row for all
    ],
    "gathered_einsum": [
        lambda w, x: torch.einsum("toi,ti->to", own_matrices(w, x), x[0]),
        lambda w, x: torch.einsum("tkio, tki -> tko", own_matrix_pairs(w, x), x[0].view(-1, 1, 8).repeat(1, 2, 1)),
    ],
    "gathered_einsum_of_rows": [
        lambda w, x: torch.einsum("tkoi,ti->tko", own_matrix_pairs(w, x), x[0]),
        lambda w, x: torch.einsum("tkio,ti->tko", own_matrix_pairs(w, x), x[0]),
    ],
    "convolution_activation": [
        lambda w, x: functional.relu(convolved(w, x)),
        lambda w, x: functional.silu(convolved(w, x)),
    ],
    "soft_cap": [lambda w, x: 30.0 * torch.tanh(x / 30.0), lambda w, x: torch.tanh(x / 2.0) * 2.0],
}
IS_NOT: dict[str, list[Function]] = {
    "linear": [lambda w, x: x @ w.matrix],
    "linear_by_matmul": [lambda w, x: x @ w.matrix, lambda w, x: x @ x.transpose(1, 2)],
    "linear_with_bias": [lambda w, x: functional.linear(x, w.matrix) + x, lambda w, x: x @ w.matrix.t() + 1.0],
    "rms_norm": [
        lambda w, x: w.column * rms(x),  # the weight is one number
        lambda w, x: w.scale * rms(x.float()).half(),  # the result is of another dtype
        lambda w, x: w.scale * (x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)),  # of another dimension
        lambda w, x: w.scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + w.column.abs())),  # it is learned
        lambda w, x: w.scale * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + 1e-6)),  # the epsilon outside the root
        lambda w, x: w.scale * (x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 1e-6)),
        lambda w, x: w.scale * (x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)),
    ],
    "rms_norm_wide_scale": [lambda w, x: w.column.double() * rms(x.double())],
    "rms_norm_offset": [lambda w, x: rms(x) * (2.0 + w.scale)],
    "rms_norm_unscaled": [lambda w, x: x * torch.rsqrt(x.abs().mean(-1, keepdim=True))],
    "rms_norm_builtin": [lambda w, x: functional.rms_norm(w.heads(x), (HEADS, 4), w.scale.view(HEADS, 4), 1e-6)],
    "rms_norm_builtin_unscaled": [lambda w, x: functional.rms_norm(w.heads(x), (HEADS, 4), None, 1e-6)],
    "rms_norm_of_heads": [lambda w, x: rms(w.heads(x)) * w.scale[:4]],
    "layer_norm": [
        lambda w, x: functional.layer_norm(w.heads(x), (HEADS, 4), w.scale.view(HEADS, 4)),
        lambda w, x: functional.layer_norm(x, (WIDTH,), None, w.shift),
    ],
    "layer_norm_unscaled": [lambda w, x: functional.layer_norm(w.heads(x), (HEADS, 4))],
    "layer_norm_by_hand": [
        lambda w, x: w.column * centred(x),
        lambda w, x: w.scale * rms(x - x.amax(-1, True)),
        lambda w, x: w.scale * varied(x, correction=1),  # the unbiased variance
    ],
    "layer_norm_by_hand_biased": [lambda w, x: w.scale * centred(x) + w.column],
    "layer_norm_by_hand_unscaled": [lambda w, x: varied(x, correction=1)],
    "layer_norm_of_heads_by_hand": [lambda w, x: w.matrix.view(-1, 4)[:1].contiguous() * centred(w.heads(x))],
    "layer_norm_of_heads": [
        lambda w, x: functional.layer_norm(w.heads(x).transpose(2, 3), (HEADS,)),
        lambda w, x: functional.layer_norm(x.transpose(1, 2).contiguous().transpose(1, 2), (WIDTH,)),
    ],
    "rope_by_table": [lambda w, x: by_table(w, x, torch.sin)],
    "rope_backwards": [lambda w, x: turn(w, x, turned=lambda h: torch.cat((h[..., 1:], -h[..., :1]), -1))],
    "rope_of_parts": [lambda w, x: turn_parts(w, x, mirrored), lambda w, x: turn_parts(w, x, gathered)],
    "rope_of_parts_token_major": [lambda w, x: turn_parts(w, x, mirrored, 2)],
    "rope_of_neighbours": [lambda w, x: turn_parts(w, x, lambda h, cos, sin: neighbours(h, cos, sin[:, :, :1]))],
    "rope_of_neighbours_token_major": [lambda w, x: turn_parts(w, x, stacked)],
    "rope_of_pairs_of_rows": [
        lambda w, x: turn_parts(w, x, lambda h, cos, sin: neighbours(h, cos[:, :1], sin[:, :1]), 2),
        lambda w, x: turn_parts(w, x, unbound),
    ],
    "rope_of_neighbours_to_halves": [
        lambda w, x: turn_parts(w, x, chunked),
        lambda w, x: turn_parts(w, x, gathered, 2),
    ],
    "rope_complex": [lambda w, x: turn_parts(w, x, as_conjugate)],
    "rope_complex_of_rows": [lambda w, x: turn_parts(w, x, as_conjugate, 2)],
    "rope": [
        lambda w, x: turn(w, x, turned=lambda h: torch.cat((h[..., 2:], -h[..., :2]), -1)),  # the other way round
        lambda w, x: turn(w, x, turned=lambda h: torch.cat((-h[..., 1:], h[..., :1]), -1)),  # unequal parts
        lambda w, x: turn(w, x, turned=torch.neg),
    ],
    "rope_token_major": [lambda w, x: turn(w, x, token_major=True, turned=torch.sin)],
    "rope_interleaved": [lambda w, x: turn(w, x, turned=lambda h: pairs(-h))],
    "rope_interleaved_token_major": [lambda w, x: turn(w, x, token_major=True, turned=lambda h: pairs(h.sin()))],
    "rope_partial": [lambda w, x: turn_some(w, x, swapped=True)],
    "rope_partial_token_major": [lambda w, x: turn_some(w, x, token_major=True, swapped=True)],
    "angles_by_matmul": [
        lambda w, x: (w.frequencies[None, :, None] @ x[..., 0][:, None, :]).transpose(0, 1),
        lambda w, x: (x[..., :2] @ w.frequencies[None, :, None]).transpose(1, 2),
    ],
    "rotary_tables": [
        lambda w, x: tables(w, x[..., 0], twice, (1.0, 1.0), once),
        lambda w, x: tables(w, numbers(x), lambda one: twice(one, -2), (1.0, 1.0), once),
    ],
    "rotary_tables_scaled": [lambda w, x: tables(w, numbers(x), twice, (1.5, 2.0), once)],
    "rotary_tables_doubled": [
        lambda w, x: tables(w, numbers(x), once, (1.5, 1.5), with_heads(lambda one: twice(one, -2)))
    ],
    "rotary_tables_of_pairs": [
        lambda w, x: tables(w, numbers(x), lambda one: one.repeat_interleave(3, -1), (1.0, 1.0), once)
    ],
    "rotary_tables_respread": [
        lambda w, x: tables(w, numbers(x), twice, (1.0, 1.0), with_heads(lambda one: each_twice(one[..., :3])))
    ],
    "embedding": [lambda w, x: functional.embedding(numbers(x), w.matrix, padding_idx=3)],
    "outer_product": [
        lambda w, x: x[..., :2] @ x[:, :2],
        lambda w, x: w.heads(x)[..., :1] @ w.heads(x)[..., :1, :],  # of heads
        lambda w, x: x[..., :1] @ w.column,  # a vector, which is no row
    ],
    "silu": [lambda w, x: torch.sigmoid(x) * x.sin()],
    "gelu": [lambda w, x: x * 0.5 * (1.0 + torch.erf(x / 2.0))],
    "gelu_tanh": [lambda w, x: gelu_written(x, cubic=0.05)],
    "gelu_quick": [lambda w, x: x * torch.sigmoid(1.7 * x)],
    "relu": [lambda w, x: functional.relu6(x)],
    "relu_squared": [lambda w, x: functional.relu(x).pow(3)],
    "gated_activation": [
        lambda w, x: functional.silu(functional.linear(x, w.matrix)) * w.scale,  # a scale, not a gate
        lambda w, x: functional.silu(x) * 2.0,
    ],
    "gated_sigmoid": [
        lambda w, x: torch.sigmoid(functional.linear(x, w.matrix[:1])) * x,  # one gate for the whole row
        lambda w, x: torch.sigmoid(x) * 2.0,
    ],
    "glu": [lambda w, x: functional.glu(w.heads(x), 2)],
    "linear_activation": [
        lambda w, x: functional.silu(functional.linear(x, w.matrix)) * functional.linear(x, w.up),  # that is a gate
        lambda w, x: read_twice(functional.linear(x, w.matrix)),
    ],
    "gathered_matmul": [
        lambda w, x: own_matrices(w, x) @ x[0].unsqueeze(-1).expand(-1, -1, 2),
        lambda w, x: (own_matrix_pairs(w, x) @ x[0, :2].unsqueeze(-1)).squeeze(-1),  # of other tokens
    ],
    "gathered_row_matmul": [lambda w, x: x[0, :2].unsqueeze(0) @ own_matrices(w, x)],
    "gathered_einsum": [
        lambda w, x: torch.einsum("toi,ti->ot", own_matrices(w, x), x[0]),
        lambda w, x: torch.einsum("toi,ti->t", own_matrices(w, x), x[0]),
        lambda w, x: torch.einsum("tii,ti->ti", own_matrices(w, x), x[0]),
    ],
    "gathered_einsum_of_rows": [lambda w, x: torch.einsum("tkoi,ti->to", own_matrix_pairs(w, x), x[0])],
    "convolution_activation": [
        lambda w, x: read_twice(convolved(w, x)),
        lambda w, x: functional.relu(convolved(w, x) + 1.0),
    ],
    "soft_cap": [
        lambda w, x: 30.0 * torch.tanh(x / 20.0),
        lambda w, x: w.column * torch.tanh(x / w.column),  # the cap is learned
    ],
}


def cases(forms: Mapping[str, Sequence[Function]]) -> list[tuple[str, int]]:
    return [(name, index) for name, functions in forms.items() for index in range(len(functions))]


@pytest.mark.parametrize(("name", "index"), cases(IS))
def test_is_rewritten_when(name: str, index: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, WIDTH)
    gm = clean(trace(Weights(IS[name][index]), x))
    wanted = gm(x)
    assert found(gm)[name] == 1
    gm.graph.lint()
    gm.recompile()
    tolerance = 1e-5 if wanted.dtype == torch.float32 else 2e-3
    torch.testing.assert_close(gm(x), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "index"), cases(IS_NOT))
def test_is_not_rewritten_when(name: str, index: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, WIDTH)
    gm = clean(trace(Weights(IS_NOT[name][index]), x))
    wanted = gm(x)
    assert found(gm)[name] == 0
    gm.recompile()
    torch.testing.assert_close(gm(x), wanted, rtol=1e-5, atol=1e-5)  # nor wrongly by another pattern


def test_every_pattern_has_both() -> None:
    names = {rule.name for rule in PATTERNS} - set(attention_samples.SAMPLERS)  # tests/passes/test_attention.py
    assert set(IS) == set(IS_NOT) == names

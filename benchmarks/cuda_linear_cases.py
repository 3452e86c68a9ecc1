"""The projections of Llama-3.1-8B in every configuration worth a try, each after a norm as in a step.

What can start before its inputs are there gains by it: in a row of projections alone it could not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import torch
from cuda_timing import Case, Variant, buffers
from torch import Tensor
from torch.nn.functional import linear as torch_linear

from autodeploy.kernels.triton import gated_linear, tiles_linear
from autodeploy.kernels.triton import linear as skinny
from autodeploy.kernels.triton.linear import SkinnyConfig
from autodeploy.kernels.triton.norm import rms_norm
from autodeploy.kernels.triton.tiles_linear import TileConfig
from autodeploy.ops import gated_linear as reference

BF16 = torch.bfloat16
Way = Callable[[Tensor, Tensor], Tensor]
LINEARS = {
    "qkv": (6144, 4096, None),
    "out": (4096, 4096, None),
    "gate-up": (28672, 4096, "silu"),
    "down": (4096, 14336, None),
    "head": (128256, 4096, None),
}


def linear_cases(rows: tuple[int, ...], sweep: bool) -> Iterator[Case]:
    for name, (n, k, gate) in LINEARS.items():
        weights = [torch.randn(n, k, device="cuda", dtype=BF16) * 0.02 for _ in range(buffers(n * k * 2))]
        for m in rows:
            x = torch.randn(m, k, device="cuda", dtype=BF16)
            ways: dict[str, Way] = {"torch": partial(_library, gate=gate), **_ours(m, n, k, gate, sweep)}
            yield Case("norm", f"{m}x{k}", [Variant("alone", [partial(rms_norm, x, None, 1e-5)] * 16)], m * k * 4)
            variants = [
                Variant(way, [partial(_after_norm, run, x, weight) for weight in weights]) for way, run in ways.items()
            ]
            expected = partial(_wide, rms_norm(x, None, 1e-5), weights[0], gate)
            yield Case("linear", f"{name} {m}x{n}x{k}", variants, n * k * 2, 2 * m * n * k if m > 256 else 0, expected)


def _after_norm(run: Way, x: Tensor, weight: Tensor) -> Tensor:
    return run(rms_norm(x, None, 1e-5), weight)


def _ours(m: int, n: int, k: int, gate: str | None, sweep: bool) -> dict[str, Way]:
    few = skinny_sweep(m) if sweep else skinny.candidates(m, n, k, BF16)
    many = tile_sweep(m, n, k, gate) if sweep else tiles_linear.candidates(m, n, k, BF16)
    return {
        **{_brief(one): partial(_run, skinny.run, one, gate) for one in few},
        **{_brief(one): partial(_run, tiles_linear.run, one, gate) for one in many},
    }


def _run(run: Callable[..., Tensor], config: object, gate: str | None, x: Tensor, weight: Tensor) -> Tensor:
    return run(x, weight, None, config, gate)


def _library(x: Tensor, weight: Tensor, gate: str | None) -> Tensor:
    return torch_linear(x, weight) if gate is None else gated_linear.library(x, weight, None, gate)


def _wide(x: Tensor, weight: Tensor, gate: str | None) -> Tensor:
    if gate is None:
        return torch.cat([x.float() @ part.float().T for part in torch.split(weight, 16384)], dim=1)
    return reference.overload(x.float(), weight.float(), None, gate)  # type: ignore[no-any-return]


def _brief(config: object) -> str:
    return str(config).replace("num_", "").replace("block_", "").replace("_k=", "=")


def skinny_sweep(m: int) -> list[SkinnyConfig]:
    if m == 1 or m > skinny.MAX_ROWS:
        return list(skinny.candidates(m, 4096, 4096, BF16))
    return [
        SkinnyConfig(n, columns, split, warps, stages)
        for n, columns, warps, stages in ((64, 128, 4, 4), (64, 128, 4, 6), (128, 128, 4, 4))
        for split in (1, 2)
        if m < 64 or stages < 6
    ]


FEW = (
    (64, 128, 4, 3), (64, 128, 4, 4), (64, 128, 4, 6), (64, 128, 4, 12), (64, 256, 4, 3), (64, 256, 4, 6),
    (64, 512, 4, 3), (128, 64, 4, 6), (128, 128, 4, 3), (128, 128, 8, 3), (128, 128, 8, 6), (128, 256, 8, 3),
)  # fmt: skip
MANY = (
    (128, 128, 64, 4, 4), (128, 128, 64, 8, 6), (128, 256, 64, 8, 4), (128, 64, 128, 4, 4),
    (256, 128, 64, 8, 4), (256, 128, 64, 8, 3), (256, 64, 64, 8, 5),
)  # fmt: skip
SHARES = {(6144, 4096): (1, 2), (4096, 4096): (1, 2, 4), (4096, 14336): (1, 2, 4)}


def tile_sweep(m: int, n: int, k: int, gate: str | None) -> list[TileConfig]:
    splits = SHARES.get((n, k), (1,))
    if m <= 64:
        rows = max(16, m)
        return [
            TileConfig(rows, block_n, block_k, split, warps, stages, ring=True)
            for (block_n, block_k, warps, stages), split in product(FEW, splits)
            if (stages * block_n + rows) * block_k * 2 <= 224 << 10 and (gate is None or block_n == 128)
        ]
    return [
        TileConfig(rows, block_n, block_k, split, warps, stages)
        for (rows, block_n, block_k, warps, stages), split in product(MANY, splits)
        if m > 128 or rows == 128
    ]

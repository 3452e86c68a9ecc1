"""`ops.linear` for up to 64 rows, and the configurations of its kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton
from torch import Tensor

from autodeploy.kernels.triton.launch import overlap
from autodeploy.kernels.triton.skinny import add_shares_kernel, matvec_kernel, skinny_kernel

MAX_ROWS = 64


@dataclass(frozen=True)
class SkinnyConfig:
    """How the work of one matmul is cut: rows of the weight a program, columns a turn, programs that share a row."""

    block_n: int
    block_k: int
    split_k: int = 1
    num_warps: int = 4
    num_stages: int = 1


ONE_ROW = (
    SkinnyConfig(1, 4096, num_warps=4),
    SkinnyConfig(2, 2048, num_warps=4),
    SkinnyConfig(4, 1024, num_warps=4),
    SkinnyConfig(1, 2048, num_warps=2),
)
FEW_ROWS = (
    SkinnyConfig(16, 256, num_warps=4, num_stages=5),
    SkinnyConfig(32, 256, num_warps=4, num_stages=4),
    SkinnyConfig(64, 128, num_warps=4, num_stages=5),
    SkinnyConfig(64, 128, split_k=4, num_warps=4, num_stages=5),
)


def candidates(m: int, n: int, k: int, dtype: torch.dtype) -> tuple[SkinnyConfig, ...]:
    """The configurations worth timing for m rows of a `[n, k]` weight, best guess first; none past MAX_ROWS rows."""
    if m > MAX_ROWS:
        return ()
    bound = triton.next_power_of_2(k)
    fitting = (replace(one, block_k=min(one.block_k, max(bound, 16))) for one in (ONE_ROW if m == 1 else FEW_ROWS))
    if dtype == torch.float32 and m > 1:  # twice the bytes in shared memory
        fitting = (replace(one, block_k=max(one.block_k // 2, 16)) for one in fitting)
    return tuple(dict.fromkeys(fitting))


def run(x: Tensor, weight: Tensor, bias: Tensor | None, config: SkinnyConfig) -> Tensor:
    """`ops.linear` of up to MAX_ROWS rows in a given configuration. Raises ValueError for more rows."""
    k, n = x.shape[-1], weight.shape[0]
    rows = x.reshape(-1, k)
    m = rows.shape[0]
    if m > MAX_ROWS:
        raise ValueError(f"{m} rows are more than the {MAX_ROWS} that a skinny matmul takes")
    out = torch.empty((*x.shape[:-1], n), dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    split = config.split_k
    shares = out if split == 1 else torch.empty((split, m, n), dtype=torch.float32, device=x.device)
    options = {
        "even": n % config.block_n == 0 and k % (config.block_k * split) == 0,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "SPLIT_K": split,
        "STAGES": config.num_stages,
        "num_warps": config.num_warps,
        **overlap(x.device),
    }
    grid = (triton.cdiv(n, config.block_n), split)
    weight, bias = weight.contiguous(), None if bias is None else bias.contiguous()
    if m == 1:
        ahead = min(triton.next_power_of_2(triton.cdiv(k, split)), 16384)
        matvec_kernel[grid](rows, weight, bias, shares, n, k, AHEAD=ahead, **options)
    else:
        block_m = max(16, triton.next_power_of_2(m))
        ahead = config.block_k * triton.next_power_of_2(config.num_stages)
        skinny_kernel[grid](
            rows, weight, bias, shares, m, n, k, rows.stride(0), BLOCK_M=block_m, AHEAD=ahead, **options
        )
    if split > 1:
        block = 1024
        add_shares_kernel[(triton.cdiv(m * n, block),)](
            shares, out, m * n, SPLIT_K=split, BLOCK=block, **overlap(x.device)
        )
    return out


def bind(config: SkinnyConfig) -> Callable[..., Tensor]:
    """`ops.linear` in a given configuration."""

    def projection(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return run(x, weight, bias, config)

    return projection


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`ops.linear`: the first of the candidates up to MAX_ROWS rows, PyTorch's own matmul past them."""
    k = x.shape[-1]
    configs = candidates(x.numel() // k, weight.shape[0], k, x.dtype)
    return run(x, weight, bias, configs[0]) if configs else torch.nn.functional.linear(x, weight, bias)

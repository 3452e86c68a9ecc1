"""Random operands to time a projection with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.storage import Storage
from autodeploy.quantization.formats import FORMATS, PACKED
from autodeploy.tuning.matmul import Matmul

SPREAD = 0.05
"""The standard deviation of a weight."""
UNIT = {"int8": 74.0, "int4": 4.6, "fp8": 1.0, "nvfp4": 3.0, "mxfp4": 3.0}
"""That of a random stored number of each format."""

Operands = tuple[Any, ...]


def random_operands(matmul: Matmul, rows: int, copies: int, device: str = "cuda") -> list[Operands]:
    """The arguments of `matmul.op` for as many weights, and the same rows `[rows, k]`."""
    x = _normal(rows, matmul.k, matmul.torch_dtype, device)
    options = (matmul.gate,) if matmul.gate else ()
    if matmul.has_residual:
        sizes = ((matmul.n, matmul.k), (rows, matmul.n))
        return [(x, *(_normal(*size, matmul.torch_dtype, device) for size in sizes)) for _ in range(copies)]
    bias = _normal(1, matmul.n, matmul.torch_dtype, device)[0] if matmul.has_bias else None
    if not matmul.storage.format:
        return [(x, _normal(matmul.n, matmul.k, matmul.torch_dtype, device), bias, *options) for _ in range(copies)]
    stored = [_stored(matmul, device) for _ in range(copies)]
    if not matmul.storage.quantizes_activations:
        given = (bias, matmul.storage.format, *options)
        return [(x, weight, scale, *_shifts(matmul.storage, scale), *given) for weight, scale in stored]
    values, x_scale = _quantized(x, matmul.storage)
    given = (bias, matmul.torch_dtype, *options)
    return [(values, x_scale, weight, scale, *given) for weight, scale in stored]


def expected_result(matmul: Matmul, operands: Operands) -> Tensor:
    """What the reference makes of operands, in float32 as far as it can be."""
    if matmul.storage.format:
        return matmul.op(*operands).float()  # type: ignore[no-any-return]
    wide = (one.float() if isinstance(one, Tensor) else one for one in operands)
    return matmul.op(*wide)  # type: ignore[no-any-return]


def _normal(rows: int, columns: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.empty(rows, columns, dtype=dtype, device=device).normal_(0.0, SPREAD)


def _stored(matmul: Matmul, device: str) -> tuple[Tensor, Tensor]:
    """A weight as its format stores it, and its scale."""
    storage, shape = matmul.storage, (matmul.n, matmul.k)
    dtype = FORMATS[storage.format]
    if storage.format in PACKED:
        weight = torch.randint(0, 256, (matmul.n, matmul.k // 2), dtype=dtype, device=device)
    elif dtype == torch.int8:
        weight = torch.randint(-127, 128, shape, dtype=dtype, device=device)
    else:
        weight = torch.randn(shape, device=device).to(dtype)
    scales = (storage.scale_rows, storage.groups)
    if storage.format == "mxfp4":
        return weight, torch.randint(119, 124, scales, dtype=torch.uint8, device=device)
    scale = (0.5 + torch.rand(scales, device=device)) * SPREAD / UNIT[storage.format]
    return weight, scale.to(getattr(torch, storage.scale))


def _shifts(storage: Storage, scale: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The zero points and the global scale."""
    whole = torch.ones((), device=scale.device) if storage.has_global_scale else None
    if not storage.zero:
        return None, whole
    zeros = torch.randint(5, 12, scale.shape, dtype=torch.uint8, device=scale.device)
    return zeros.to(getattr(torch, storage.zero)), whole


def _quantized(x: Tensor, storage: Storage) -> tuple[Tensor, Tensor]:
    """Rows as the projection takes them."""
    static = torch.full((), 4 * SPREAD / UNIT[storage.format], device=x.device) if storage.x_groups == 0 else None
    group = x.shape[-1] // storage.x_groups if storage.x_groups > 1 else 0
    values, scale = ops.quantize.overload(x, storage.format, group, static)
    return values, scale

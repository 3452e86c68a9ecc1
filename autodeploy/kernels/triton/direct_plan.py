"""Which matmuls of few rows `direct` serves, and how their work may be cut.

Apart from the kernel, which only the Triton that they were written for can read.
"""

from __future__ import annotations

import torch

from autodeploy.kernels.storage import Storage
from autodeploy.kernels.triton.launch import current_device, runs_gluon
from autodeploy.kernels.triton.quantized import QuantizedConfig

FEW = 16
"""So many rows of x, at most, have room in registers."""
COLUMNS = {"int4": 128, "int8": 64, "fp8": 64}
"""Of a unit, 64 bytes of each row of the weight, in which groups begin and end."""
FOUR_BITS, EIGHT_BITS = (
    tuple(QuantizedConfig(rows, 0, 1, warps, stages, way="direct") for rows, warps, stages in cuts)
    for cuts in (
        ((32, 4, 4), (16, 4, 4), (32, 4, 2), (16, 8, 2), (32, 2, 2), (16, 2, 4)),
        ((16, 4, 4), (16, 8, 4), (16, 8, 8), (32, 4, 4), (16, 2, 8)),
    )
)


def candidates(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> tuple[QuantizedConfig, ...]:
    """The configurations worth timing for m rows of x, the best guess first; none where other ways must serve."""
    if not runs_gluon(current_device()) or declines(m, n, k, dtype, storage) is not None:
        return ()
    return FOUR_BITS if storage.format == "int4" else EIGHT_BITS


def declines(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> str | None:
    """Why m rows by a weight `[n, k]` are left to other ways, or None."""
    columns = COLUMNS.get(storage.format)
    if columns is None or k % columns:
        return f"rows of {k} numbers of {storage.format} are no whole number of units"
    if m > FEW or dtype.itemsize != 2:
        return f"{m} rows of {dtype} are not multiplied"
    if storage.quantizes_activations:
        whole = storage.groups == 1 and storage.x_groups <= 1 and storage.scale_rows in (1, n)
        return None if whole and storage.format == "fp8" else "only fp8 with scales of whole rows is multiplied by fp8"
    if storage.format == "fp8":
        return "fp8 is multiplied by fp8 alone"
    if storage.groups == 1:
        return None
    return None if (k // storage.groups) % columns == 0 else "groups are no whole number of units"

"""Which matmuls of few rows `direct` and `direct_tiles` serve, and how their work may be cut.

Apart from the kernels, which only the Triton that they were written for can read.
"""

from __future__ import annotations

import torch

from autodeploy.kernels.storage import Storage
from autodeploy.kernels.triton.launch import current_device, runs_gluon, shared_memory
from autodeploy.kernels.triton.quantized import QuantizedConfig, rows_of_program

FEW, MOST = 16, 64
"""So many rows of x, at most, have room in registers; so many pass through shared memory."""
UNIT_BYTES = 64
"""Of each row of the weight, in which groups of columns begin and end."""
COLUMNS = {"int4": 128, "int8": 64, "fp8": 64}
"""Of a unit."""
OWN_BYTES = 2048
"""Of shared memory, for barriers and for what the system keeps for itself."""


def _direct(rows: int, warps: int, split: int = 1) -> QuantizedConfig:
    return QuantizedConfig(rows, 0, split, warps, 1, way="direct")


def _planes(rows: int, warps: int, stages: int, split: int = 1) -> QuantizedConfig:
    return QuantizedConfig(rows, 0, split, warps, stages, way="planes")


DIRECT = (_direct(16, 4), _direct(16, 8), _direct(32, 4), _direct(32, 8), _direct(16, 8, 2), _direct(32, 8, 2))
PLANES = (_planes(64, 4, 2), _planes(64, 4, 2, 2), _planes(128, 8, 2), _planes(128, 8, 2, 2), _planes(128, 8, 2, 4))


def candidates(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> tuple[QuantizedConfig, ...]:
    """The configurations worth timing for m rows of x, the best guess first; none where other ways must serve."""
    device = current_device()
    if not runs_gluon(device) or declines(m, n, k, dtype, storage) is not None:
        return ()
    ways = DIRECT if m <= FEW else PLANES
    return tuple(one for one in ways if shared_bytes(one, m, k, storage.format) <= shared_memory(device))


def declines(m: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> str | None:
    """Why m rows by a weight `[n, k]` are left to other ways, or None."""
    columns = COLUMNS.get(storage.format)
    if columns is None or k % columns:
        return f"rows of {k} numbers of {storage.format} are no whole number of units"
    if m > MOST or dtype.itemsize != 2:
        return f"{m} rows of {dtype} are not multiplied"
    if storage.quantizes_activations:
        whole = storage.groups == 1 and storage.x_groups <= 1 and storage.scale_rows in (1, n)
        return None if whole and storage.format == "fp8" else "only fp8 with scales of whole rows is multiplied by fp8"
    if storage.format == "fp8":
        return "fp8 is multiplied by fp8 alone"
    if storage.groups == 1:
        return None
    grouped = storage.format == "int4" or m <= FEW
    return None if grouped and (k // storage.groups) % columns == 0 else "groups are no whole number of units"


def shared_bytes(config: QuantizedConfig, m: int, k: int, format: str) -> int:
    """The shared memory of a program: its units, which also hold the warps' sums in the end, or two units of x."""
    if config.way == "planes":
        return 2 * rows_of_program(config, m) * COLUMNS[format] * 2 + OWN_BYTES
    units = -(-k // (COLUMNS[format] * config.num_warps * config.split_k)) * config.num_warps
    return config.block_n * units * UNIT_BYTES + OWN_BYTES

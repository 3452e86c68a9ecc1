"""What the tensor memory accelerator is told of a matrix: tensor maps, which kernels take as `__grid_constant__`."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from autodeploy.errors import AutodeployError

DTYPES = {torch.float16: 6, torch.bfloat16: 9}
"""By the driver's numbers of them, as are the rest."""
SWIZZLES = {32: 1, 64: 2, 128: 3}
"""By the bytes of a row of a box."""
LINES_OF_256 = 3
ALIGNMENT = 64


class MapError(AutodeployError):
    """The CUDA driver cannot describe a matrix."""


class TensorMap(ctypes.Structure):
    """A matrix, cut into boxes; to be passed to a kernel by value."""

    _fields_ = (("opaque", ctypes.c_uint64 * 16),)


def described(x: Tensor, rows: int, columns: int) -> TensorMap:
    """What brings and takes boxes of `rows` by `columns` of a 16-bit matrix x, swizzled in shared memory.

    Rows must lie on 16 bytes. What a box has outside of x is brought as zeros and not taken. MapError where the driver
    refuses.
    """
    room = ctypes.create_string_buffer(ctypes.sizeof(TensorMap) + ALIGNMENT)
    made = TensorMap.from_buffer(room, -ctypes.addressof(room) % ALIGNMENT)
    outcome = _driver().cuTensorMapEncodeTiled(
        ctypes.byref(made),
        DTYPES[x.dtype],
        2,
        ctypes.c_void_p(x.data_ptr()),
        (ctypes.c_uint64 * 2)(x.shape[1], x.shape[0]),
        (ctypes.c_uint64 * 1)(x.stride(0) * x.itemsize),
        (ctypes.c_uint32 * 2)(columns, rows),
        (ctypes.c_uint32 * 2)(1, 1),
        0,
        SWIZZLES[columns * x.itemsize],
        LINES_OF_256,
        0,
    )
    if outcome:
        shape = f"{x.shape[0]} x {x.shape[1]} of {x.dtype}"
        raise MapError(f"a matrix of {shape} cannot be cut into boxes of {rows} x {columns}: the driver says {outcome}")
    return made


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")

"""What a device needs at least for what is tuned: to read it, or to compute it, whichever takes longer."""

from __future__ import annotations

from autodeploy.hardware import PRECISIONS, Gpu, decode_seconds
from autodeploy.kernels.attention import Attention
from autodeploy.tuning.matmul import Matmul


def matmul_floor(matmul: Matmul, rows: int, gpu: Gpu) -> float:
    """Seconds for the weight and the products of `rows` rows."""
    dtype = matmul.dtype
    if matmul.storage.quantizes_activations:
        dtype = {"fp8": "float8_e4m3fn"}.get(matmul.storage.format, matmul.storage.format)
    return _seconds(matmul.weight_bytes, 2 * rows * matmul.n * matmul.k, dtype, gpu)


def attention_floor(attention: Attention, rows: int, context: int, gpu: Gpu) -> float:
    """Seconds for `rows` rows of contexts of their own, or for a prompt of as many rows, and the products of both."""
    if not attention.prompt:
        keys = rows * attention.seen(context)
        return _seconds(keys * attention.key_bytes, _operations(attention, keys), attention.dtype, gpu)
    met = sum(attention.seen(context - row) for row in range(rows))
    return _seconds(context * attention.key_bytes, _operations(attention, met), attention.dtype, gpu)


def _operations(attention: Attention, pairs: int) -> int:
    """Of so many pairs of a row and a key that it sees."""
    return 2 * pairs * attention.heads * (attention.key_width + attention.value_width)


def _seconds(num_bytes: int, num_flops: int, dtype: str, gpu: Gpu) -> float:
    precision = PRECISIONS.get(dtype, "fp32")
    return decode_seconds(gpu, num_bytes, num_flops, precision if precision in gpu.tflops else "fp32")

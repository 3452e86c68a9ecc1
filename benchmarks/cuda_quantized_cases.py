"""The quantized projections of Llama-3.1-8B, each after a norm as in a step, in the configurations that TUNE tries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from cuda_linear_cases import LINEARS
from cuda_timing import Case, Variant, buffers
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.storage import Storage
from autodeploy.kernels.triton import packed_linear, scaled_linear
from autodeploy.kernels.triton.norm import rms_norm
from autodeploy.kernels.triton.quantized import QuantizedConfig

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
Weight = tuple[Tensor, Tensor]
GROUP = 128


def quantized_cases(rows: tuple[int, ...]) -> Iterator[Case]:
    for name, (n, k, gate) in LINEARS.items():
        if name != "head":
            for m in rows:
                yield _scaled(name, m, n, k)
                yield _packed("int8", name, m, n, k, gate)
                yield _packed("int4", name, m, n, k, gate)


def _scaled(name: str, m: int, n: int, k: int) -> Case:
    """fp8 by fp8, with a scale for each row of both; its gate leaves with the quantizer that follows."""
    weights = [
        (torch.randn(n, k, device="cuda", dtype=BF16).to(FP8), torch.rand(n, 1, device="cuda") + 0.5)
        for _ in range(buffers(n * k))
    ]
    x, x_scale = ops.quantize.reference(torch.randn(m, k, device="cuda", dtype=BF16), "fp8")
    variants = [
        Variant(str(config), _after_norm(m, weights, partial(_run_scaled, x, x_scale, config)))
        for config in scaled_linear.candidates(m, n, k, BF16, Storage("fp8", "float32", n, 1, x_groups=1))
    ]
    weight, scale = weights[0]
    expected = partial(ops.scaled_linear.reference, x, x_scale, weight, scale, None, torch.float32)
    return Case("fp8 by fp8", f"{name} {m}x{n}x{k}", variants, n * k, 2 * m * n * k if m > 256 else 0, expected)


def _packed(format: str, name: str, m: int, n: int, k: int, gate: str | None) -> Case:
    """A weight of int8 with a scale a row, or of int4 in groups."""
    size, groups = (n * k, 1) if format == "int8" else (n * k // 2, k // GROUP)
    weights = [(_bytes(format, n, k), _scales(n, groups)) for _ in range(buffers(size))]
    x = torch.randn(m, k, device="cuda", dtype=BF16) * 0.01
    variants = [
        Variant(str(config), _after_norm(m, weights, partial(_run_packed, x, format, gate, config)))
        for config in packed_linear.candidates(m, n, k, BF16, Storage(format, "bfloat16", n, groups))
    ]
    expected = partial(_wide, x, *weights[0], format, gate)
    return Case(format, f"{name} {m}x{n}x{k}", variants, size, 2 * m * n * k if m > 256 else 0, expected)


def _bytes(format: str, n: int, k: int) -> Tensor:
    if format == "int8":
        return torch.randint(-127, 128, (n, k), dtype=torch.int8, device="cuda")
    return torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device="cuda")


def _scales(n: int, groups: int) -> Tensor:
    return (torch.rand(n, groups, device="cuda") + 0.5).to(BF16)


def _after_norm(m: int, weights: list[Weight], run: Callable[[Weight], Tensor]) -> list[Callable[[], Tensor]]:
    before = torch.randn(m, 4096, device="cuda", dtype=BF16)

    def both(weight: Weight) -> Tensor:
        rms_norm(before, None, 1e-5)
        return run(weight)

    return [partial(both, weight) for weight in weights]


def _run_scaled(x: Tensor, x_scale: Tensor, config: QuantizedConfig, stored: Weight) -> Tensor:
    return scaled_linear.run(x, x_scale, *stored, None, BF16, config)


def _run_packed(x: Tensor, format: str, gate: str | None, config: QuantizedConfig, stored: Weight) -> Tensor:
    return packed_linear.run(x, *stored, None, None, None, format, config, gate)


def _wide(x: Tensor, weight: Tensor, scale: Tensor, format: str, gate: str | None) -> Tensor:
    given = (x.float(), weight, scale, None, None, None, format)
    reference = ops.packed_linear.reference if gate is None else partial(ops.packed_gated_linear.reference, kind=gate)
    wide: Tensor = reference(*given)
    return wide

"""Attention of single rows in CUDA C++, by steps of contexts of all lengths."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.cuda import why_unavailable
from autodeploy.kernels.cuda.compile import Variant, compiled
from tests.kernels.steps import TOLERANCE, Shape, Step, error, make_step

pytest.importorskip("triton")
from autodeploy.kernels.cuda import decode as cuda
from autodeploy.kernels.triton.paged import Fresh, Paged, Scoring

needs_compiler = pytest.mark.skipif(why_unavailable() is not None, reason="no compiler of CUDA C++ here")
LENGTHS = [(1, 70), (1, 1), (1, 33), (1, 400), (1, 16), (1, 17)]
SPARSE = [(3, 40), (0, 0), (1, 20), (0, 0)]
MANY = [(20, 60), *[(0, 0)] * 19]
"""A request with more rows than a warp takes at once."""
LONG = [(1, 3000), (1, 700)]


def call(
    step: Step, angles: list[Tensor], warps: int, least_keys: int = 64, reference: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The result and the cache afterwards, by the kernel or in float32 on the CPU."""
    device = "cpu" if reference else "cuda"
    wide = torch.float32 if reference else step.tensors[0].dtype
    tensors = [x.clone().to(device, wide if x.is_floating_point() else x.dtype) for x in (*step.tensors, *angles)]
    q, k, v, keys, values, query_start, context_len, table, slots, *turns = tensors
    if reference:
        op = ops.rope_paged_attention if turns else ops.paged_attention
        rest = (keys, values, query_start, context_len, table, slots)
        return op.reference(q, k, v, *turns, *rest, **step.options), keys, values
    out = torch.full_like(q, float("nan"))
    cos, sin = turns or (None, None)
    paged, fresh = Paged(keys, values, query_start, context_len, table), Fresh(k, v, slots, cos, sin)
    scoring = Scoring(step.options["scale"])
    assert cuda.serves(q, fresh, paged, scoring)
    cuda.decode(q, paged, scoring, out, fresh, cuda.Blocks(warps, least_keys))
    return out.cpu(), keys.cpu(), values.cpu()


@pytest.mark.gpu
@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("requests", "shape", "warps"),
    [
        (LENGTHS, Shape(8, 2, 128, 128), 8),
        (LENGTHS, Shape(8, 1, 128, 128, 32), 4),
        (LENGTHS, Shape(3, 3, 64, 64, 64), 12),
        (LENGTHS, Shape(6, 2, 64, 64), 8),
        (SPARSE, Shape(8, 2, 128, 128), 8),
        (MANY, Shape(4, 1, 128, 128), 4),
        (LONG, Shape(4, 1, 128, 128), 4),
        (LONG, Shape(16, 2, 64, 64), 8),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_rows(requests: list[tuple[int, int]], shape: Shape, warps: int, turned: bool, dtype: torch.dtype) -> None:
    """Twice, since the first has to reset its counts, and with the same bits."""
    step = make_step(shape, requests, dtype, padding=2 * (requests is LENGTHS))
    angles = [torch.randn(len(step.tensors[0]), shape.key_width).to(dtype) for _ in range(2 * turned)]
    expected = call(step, angles, warps, reference=True)
    first = call(step, angles, warps)
    for one, other in zip(first, expected, strict=True):
        assert error(one.float().nan_to_num(), other.nan_to_num()) <= TOLERANCE[dtype]
    for one, other in zip(call(step, angles, warps), first, strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())


@pytest.mark.gpu
@needs_compiler
def test_what_is_left_to_triton() -> None:
    step = make_step(Shape(8, 2, 128, 128), LENGTHS, torch.bfloat16).to("cuda")
    q, k, v, keys, values, query_start, context_len, table, slots = step.tensors
    fresh, paged = Fresh(k, v, slots), Paged(keys, values, query_start, context_len, table)
    angles, scale = torch.zeros(len(q), 32, device="cuda").bfloat16(), torch.ones(2, device="cuda")
    plain = Scoring(1.0)
    assert cuda.serves(q, fresh, paged, plain)
    assert not cuda.serves(q, fresh, paged, Scoring(1.0, window=4))
    assert not cuda.serves(q, fresh, paged, Scoring(1.0, softcap=4.0))
    assert not cuda.serves(q.float(), fresh, paged, plain)
    assert not cuda.serves(q, Fresh(k, v, slots, angles, angles), paged, plain)
    assert not cuda.serves(q, fresh, replace(paged, key_scale=scale, value_scale=scale), plain)
    assert not cuda.serves(q, fresh, replace(paged, key_pages=keys[:, :, :8], value_pages=values[:, :, :8]), plain)


@pytest.mark.parametrize(
    ("pairs", "context", "warps", "expected"),
    [(8, 8192, 12, 16), (8, 8192, 5, 49), (64, 8192, 12, 2), (64, 8192, 4, 8), (64, 64, 12, 1), (512, 8192, 4, 1)],
)
def test_contexts_are_cut_until_all_blocks_run_at_once(pairs: int, context: int, warps: int, expected: int) -> None:
    assert cuda.num_shares(pairs, context, cuda.Blocks(warps, 64), 132) == expected


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("width", "group", "warps"), [(128, 4, 12), (64, 3, 8), (128, 8, 9)])
def test_it_compiles(width: int, group: int, warps: int) -> None:
    numbers = {"WIDTH": width, "GROUP": group, "PAGE": 16, "WARPS": warps, "ROTARY": 1, "HALF": 0}
    code, told = compiled(Variant("decode.cu", "decode", tuple(numbers.items())), (9, 0))
    assert code
    assert "spill" not in told or " 0 bytes spill stores" in told

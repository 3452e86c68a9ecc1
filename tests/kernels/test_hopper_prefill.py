"""Attention of many rows in Gluon: compiled here, computed on the GPU."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from autodeploy.kernels.triton.paged import Fresh, Paged, Scoring
from tests.kernels.device import INTERPRETED
from tests.kernels.steps import TOLERANCE, Shape, Step, error, make_step

pytestmark = pytest.mark.skipif(INTERPRETED or not find_spec("triton"), reason="Gluon is not interpreted")


@pytest.mark.slow
@pytest.mark.parametrize("width", [64, 128])
def test_it_compiles_for_hopper(width: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon._runtime import GluonASTSource

    from autodeploy.kernels.triton import hopper_prefill

    if not triton.__version__.startswith("3.6."):
        pytest.skip("written for Triton 3.6")
    pages = f"tensordesc<bf16[16, 64],{hopper_prefill.BOXES!r}>"
    kinds = {"q": "*bf16", "key_pages": pages, "value_pages": pages, "out": "*bf16", "scale": "fp32"}
    kinds |= dict.fromkeys(("query_start", "context_len", "page_table"), "*i32")
    kinds |= dict.fromkeys(("q_stride", "table_stride", "requests"), "i32")
    fixed = {"heads": 32, "kv_heads": 8, "overlapped": True, "PAGE": 16, "WIDTH": width}
    fixed |= {"BLOCK_ROWS": 128, "BLOCK_KEYS": 128, "STAGES": 3}
    kernel = hopper_prefill._hopper_prefill_kernel
    signature = {name: kinds.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (at,): [["tt.divisibility", 16]] for at, name in enumerate(kernel.arg_names) if kinds.get(name) == "*bf16"
    }
    source = GluonASTSource(kernel, signature, fixed, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert compiled.metadata.shared <= 227 << 10
    assert "wgmma.mma_async" in compiled.asm["ptx"]


def hopper_only(step: Step) -> tuple[torch.Tensor, torch.Tensor]:
    """What the kernel gives for rows of requests with several rows, and what it should, on the CPU; NaN elsewhere."""
    from autodeploy.kernels.triton.cache import write_cache
    from autodeploy.kernels.triton.hopper_prefill import hopper_prefill, suits

    q, k, v, keys, values, query_start, context_len, table, slots = (one.clone() for one in step.to("cuda").tensors)
    out = torch.full_like(q, float("nan"))
    paged, scoring = Paged(keys, values, query_start, context_len, table), Scoring(**step.options)
    assert suits(q, paged, scoring)
    write_cache(Fresh(k, v, slots), paged, out)
    hopper_prefill(q, paged, scoring, out)
    return out.cpu(), step.expected()[0]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("group", "width", "page_size"), [(1, 64, 16), (2, 128, 48), (4, 128, 16), (8, 64, 128)])
@pytest.mark.parametrize(
    "requests",
    [[(2, 2)], [(128, 128)], [(129, 1000)], [(300, 555), (1, 40), (5, 5), (1, 1), (200, 200), (0, 0)], [(700, 700)]],
)
def test_it_agrees_with_the_reference(
    requests: list[tuple[int, int]], group: int, width: int, page_size: int, dtype: torch.dtype
) -> None:
    """Whatever the unused cache holds, and whichever rows are the decode kernel's."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("written for Hopper")
    shape = Shape(2 * group, 2, width, width, page_size)
    found, expected = hopper_only(make_step(shape, requests, dtype, padding=3))
    begin = 0
    for rows, _ in requests:
        here = slice(begin, begin + rows)
        if rows > 1:
            assert error(found[here], expected[here]) <= TOLERANCE[dtype]
        elif rows == 1:
            assert found[here].isnan().all()
        begin += rows
    assert not found[begin:].any()

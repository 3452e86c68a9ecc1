from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.ops import CanonicalOp
from tests.kernels.steps import TOLERANCE, Shape, error, make_step

pytestmark = pytest.mark.usefixtures("native_backend")
NATIVE = torch.ops.autodeploy_native
DTYPES = [torch.float32, torch.bfloat16]


def draw(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size).to(dtype)


def check(op: CanonicalOp, *args: Any, bitwise_share: float = 0.0, **kwargs: Any) -> Tensor:
    """The kernel against its reference in the same dtype (which rounds in the same places), and in float32."""
    out: Tensor = getattr(NATIVE, op.name).default(*args, **kwargs)
    same = op.reference(*args, **kwargs)
    assert out.shape == same.shape
    assert out.dtype == same.dtype
    assert out.is_contiguous()
    wide = [arg.float() if isinstance(arg, Tensor) else arg for arg in args]
    assert error(out, op.reference(*wide, **kwargs)) <= TOLERANCE[out.dtype]
    assert (out == same).float().mean().item() >= bitwise_share
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "inner", "outer"), [(1, 576, 960), (3, 33, 7), (8, 1, 1), (17, 100, 51), (40, 257, 37)]
)
@pytest.mark.parametrize("biased", [False, True])
def test_linear(rows: int, inner: int, outer: int, biased: bool, dtype: torch.dtype) -> None:
    bias = draw(outer, dtype=dtype) if biased else None
    check(ops.linear, draw(1, rows, inner, dtype=dtype), draw(outer, inner, dtype=dtype), bias)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_takes_strided_rows(dtype: torch.dtype) -> None:
    joined = draw(5, 96, dtype=dtype)
    check(ops.linear, joined[:, 32:64], draw(48, 70, dtype=dtype)[:, :32])
    check(ops.linear, joined[:, ::2], draw(24, 48, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inner", "outer"), [(576, 512), (1000, 203)])
def test_linear_row_does_not_depend_on_the_batch(inner: int, outer: int, dtype: torch.dtype) -> None:
    x, weight = draw(21, inner, dtype=dtype), draw(outer, inner, dtype=dtype)
    alone = torch.cat([NATIVE.linear(row, weight) for row in x.unsqueeze(1)])
    for rows in (2, 3, 5, 7, 8, 21):
        assert torch.equal(NATIVE.linear(x[:rows], weight), alone[:rows])


def test_linear_does_not_depend_on_the_threads() -> None:
    x, weight, threads = draw(3, 576), draw(1024, 576), torch.get_num_threads()
    outs = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        outs.append(NATIVE.linear(x, weight))
    torch.set_num_threads(threads)
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [576, 61])
@pytest.mark.parametrize(("offset", "wide"), [(0.0, False), (1.0, False), (1.0, True)])
def test_rms_norm(width: int, offset: float, wide: bool, dtype: torch.dtype) -> None:
    weight = draw(width, dtype=dtype)
    args = (1e-5, offset, wide)
    check(ops.rms_norm, draw(2, 5, width, dtype=dtype), weight, *args, bitwise_share=0.98 * (dtype != torch.float32))
    check(ops.rms_norm, draw(7, 2 * width, dtype=dtype)[:, width:], weight, *args)
    check(ops.rms_norm, draw(4, width, dtype=dtype), None, *args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [576, 61])
def test_layer_norm(width: int, dtype: torch.dtype) -> None:
    weight, bias = draw(width, dtype=dtype), draw(width, dtype=dtype)
    x = draw(1, 9, width, dtype=dtype) + 3
    check(ops.layer_norm, x, weight, bias, 1e-5)
    check(ops.layer_norm, x, None, None, 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [576, 61])
def test_norms_of_sums(width: int, dtype: torch.dtype) -> None:
    x, residual = draw(2, 9, width, dtype=dtype), draw(2, 9, width, dtype=dtype) * 3 + 1
    weight, bias = draw(width, dtype=dtype), draw(width, dtype=dtype)
    rms, layer = (weight, 1e-5, 1.0, True), (weight, bias, 1e-5)
    for added, alone, args in (("add_rms_norm", ops.rms_norm, rms), ("add_layer_norm", ops.layer_norm, layer)):
        normed, total = getattr(NATIVE, added)(x, residual, *args)
        assert torch.equal(total, x + residual)
        assert torch.equal(normed, getattr(NATIVE, alone.name)(total, *args))
        strided = torch.cat((x, residual), dim=-1)
        again, _ = getattr(NATIVE, added)(strided[..., :width], strided[..., width:], *args)
        assert torch.equal(again, normed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-4, 1.0, 30.0])
def test_soft_cap(size: float, dtype: torch.dtype) -> None:
    check(ops.soft_cap, draw(1, 3, 75, dtype=dtype) * size, 1.5, 2.0, bitwise_share=0.98 * (dtype != torch.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", list(ops.ACTIVATIONS))
@pytest.mark.parametrize("rows", [1, 11])
def test_linear_activation(rows: int, kind: str, dtype: torch.dtype) -> None:
    x, weight, bias = draw(1, rows, 64, dtype=dtype), draw(331, 64, dtype=dtype), draw(331, dtype=dtype)
    out = check(ops.linear_activation, x, weight, bias, kind)
    assert torch.equal(out, NATIVE.activate(NATIVE.linear(x, weight, bias), kind))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", list(ops.ACTIVATIONS))
def test_activations(kind: str, dtype: torch.dtype) -> None:
    share = 0.9 * (dtype != torch.float32)
    joined = draw(1, 11, 2 * 75, dtype=dtype) * 3
    check(ops.activate, joined, kind, bitwise_share=share)
    check(ops.gated_activation, *joined.chunk(2, dim=-1), kind, bitwise_share=share)


@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "sigmoid"])
def test_activations_at_the_ends_of_the_range(kind: str) -> None:
    x = torch.tensor([0.0, -0.0, 1e30, -1e30, 100.0, -100.0, 1e-30])
    torch.testing.assert_close(NATIVE.activate(x, kind), ops.activate.reference(x, kind), rtol=1e-5, atol=1e-6)
    assert NATIVE.activate(torch.full((3,), float("nan")), kind).isnan().all()


@pytest.mark.parametrize(
    ("dtype", "angle_dtype"), [(DTYPES[0], DTYPES[0]), (DTYPES[1], DTYPES[0]), (DTYPES[1], DTYPES[1])]
)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("width", "rotary"), [(64, 64), (80, 20), (64, 32)])
def test_rope(width: int, rotary: int, interleaved: bool, dtype: torch.dtype, angle_dtype: torch.dtype) -> None:
    cos, sin = draw(7, rotary, dtype=angle_dtype), draw(7, rotary, dtype=angle_dtype)
    share = 0.98 * (dtype != torch.float32)
    joined = draw(7, 5, width, dtype=dtype)
    check(ops.rope, joined, cos, sin, interleaved, bitwise_share=share)
    check(ops.rope, joined[:, 1:3], cos, sin, interleaved, bitwise_share=share)
    check(ops.rope, draw(2, 7, 3, width, dtype=dtype), cos[None], sin[None], interleaved, bitwise_share=share)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("tokens", "pairs", "scaling"), [(3, 64, 1.0), (1, 10, 1.25), (700, 100, 1.0), (0, 8, 1.0)])
def test_rotary_tables(tokens: int, pairs: int, scaling: float, interleaved: bool, dtype: torch.dtype) -> None:
    positions = torch.randint(1 << 20, (2, 2 * tokens))[:, ::2]
    given = (positions, 5e5 ** -(torch.arange(pairs) / pairs), dtype, scaling, interleaved)
    largest, least_same = (2e-7, 0.8) if dtype == torch.float32 else (1e-2, 0.99)
    for one, expected in zip(NATIVE.rotary_tables(*given), ops.rotary_tables.reference(*given), strict=True):
        assert (one.shape, one.dtype) == (expected.shape, expected.dtype)
        if tokens:
            assert (one.float() - expected.float()).abs().max() <= largest
            assert (one == expected).float().mean() > least_same


MIXED = [(1, 70), (5, 5), (1, 1), (30, 200), (2, 130)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [64, 80, 96, 128, 40, 12])
@pytest.mark.parametrize("group", [1, 3, 8])
def test_paged_attention(group: int, width: int, dtype: torch.dtype) -> None:
    shape = Shape(heads=2 * group, kv_heads=2, key_width=width, value_width=width)
    step = make_step(shape, MIXED, dtype, padding=3)
    out, key_pages, value_pages = step.call(NATIVE.paged_attention)
    expected, expected_keys, expected_values = step.expected()
    assert error(out, expected) <= TOLERANCE[dtype]
    assert not out[-3:].any()
    assert torch.equal(key_pages.float().nan_to_num(), expected_keys.nan_to_num())
    assert torch.equal(value_pages.float().nan_to_num(), expected_values.nan_to_num())


OPTIONS = list(itertools.product([None, 1, 17, 64, 100], [None, 5.0], [False, True], [False, True]))


@pytest.mark.parametrize(("window", "softcap", "sinks", "alibi"), OPTIONS)
def test_paged_attention_masks(window: int | None, softcap: float | None, sinks: bool, alibi: bool) -> None:
    shape = Shape(heads=4, kv_heads=2, key_width=32, value_width=48, page_size=5)
    step = make_step(shape, MIXED, torch.float32, window=window, softcap=softcap, sinks=sinks, alibi=alibi)
    assert error(step.call(NATIVE.paged_attention)[0], step.expected()[0]) <= 2e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 50])
def test_paged_attention_row_does_not_depend_on_the_batch(window: int | None, dtype: torch.dtype) -> None:
    step = make_step(Shape(kv_heads=3, heads=9), [(1, 600), (70, 150), (1, 20)], dtype, window=window, sinks=True)
    whole, *_ = step.call(NATIVE.paged_attention)
    prompt, filled = slice(1, 71), step.call(NATIVE.paged_attention)[1:]
    full = type(step)((*step.tensors[:3], *filled, *step.tensors[5:]), step.options)
    alone, *_ = full.narrowed(slice(0, 1), 0, 600).call(NATIVE.paged_attention)
    assert torch.equal(alone, whole[:1])
    for size in (1, 3, 33):
        for first in range(prompt.start, prompt.stop, size):
            last = min(first + size, prompt.stop)
            chunk, *_ = full.narrowed(slice(first, last), 1, 80 + last - prompt.start).call(NATIVE.paged_attention)
            assert torch.equal(chunk, whole[first:last])


def test_paged_attention_takes_parts_of_a_joined_projection() -> None:
    step = make_step(Shape(heads=6, kv_heads=2), MIXED, torch.float32)
    joined = torch.cat(step.tensors[:3], dim=1)
    q, k, v = joined[:, :6], joined[:, 6:8], joined[:, 8:]
    out = NATIVE.paged_attention(q, k, v, *(t.clone() for t in step.tensors[3:]), **step.options)
    assert torch.equal(out, step.call(NATIVE.paged_attention)[0])


def test_empty_input() -> None:
    assert NATIVE.linear(draw(0, 8), draw(4, 8)).shape == (0, 4)
    assert NATIVE.rms_norm(draw(0, 8), None, 1e-5).shape == (0, 8)
    assert NATIVE.rope(draw(0, 2, 8), draw(0, 8), draw(0, 8)).shape == (0, 2, 8)


def test_compiles_as_one_opaque_op() -> None:
    def layer(x: Tensor, weight: Tensor) -> Tensor:
        return torch.relu(NATIVE.linear.default(x, weight))

    args = (draw(4, 16), draw(8, 16))
    torch.library.opcheck(NATIVE.linear.default, args)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*args), layer(*args))


def test_mutation_is_declared() -> None:
    step = make_step(Shape(), [(1, 5), (2, 2)], torch.float32)
    tensors = tuple(tensor.nan_to_num() if tensor.is_floating_point() else tensor for tensor in step.tensors)
    torch.library.opcheck(NATIVE.paged_attention.default, tensors, step.options)

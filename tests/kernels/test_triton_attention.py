"""Attention over a paged cache, of steps that decode, prefill, or do both."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels.attention import Attention
from autodeploy.kernels.triton.paged import Fresh, Paged, Scoring
from tests.kernels.device import DEVICE, DTYPES, INTERPRETED, device_test, kernel, later
from tests.kernels.steps import TOLERANCE, Shape, error, make_step

pytest.importorskip("triton")
from autodeploy.kernels.triton import rope_cache
from autodeploy.kernels.triton.cache import write_cache
from autodeploy.kernels.triton.decode import DecodeConfig, decode

HALF, BF16, SINGLE = torch.float16, torch.bfloat16, torch.float32
# Heads of a group, their width and a dtype: each is kernels to compile, which in float32 takes longest.
HEADS = (
    [(3, 64, HALF), (8, 128, HALF), (3, 80, HALF), later(1, 64, HALF), later(1, 96, HALF), later(2, 256, HALF)]
    if INTERPRETED
    else [
        (1, 64, SINGLE), (3, 64, SINGLE), (3, 64, BF16), (8, 128, BF16), (8, 128, HALF), (3, 80, HALF), (1, 96, BF16),
        (2, 256, BF16),
    ]
)  # fmt: skip
DECODE = [(1, 70), (1, 1), (1, 33)]
MIXED = [(1, 40), (5, 5), (1, 1), (30, 90)]
ODD, WIDE = Shape(4, 2, 32, 48, 5), Shape(2, 1, 192, 128, 16)


@device_test
@pytest.mark.parametrize(("group", "width", "dtype"), HEADS)
@pytest.mark.parametrize("requests", [DECODE, MIXED])
def test_paged_attention(requests: list[tuple[int, int]], group: int, width: int, dtype: torch.dtype) -> None:
    shape = Shape(heads=2 * group, kv_heads=2, key_width=width, value_width=width)
    step = make_step(shape, requests, dtype, padding=3)
    out, key_pages, value_pages = step.to(DEVICE).call(kernel(ops.paged_attention).run)
    expected, expected_keys, expected_values = step.expected()
    assert error(out.cpu(), expected) <= TOLERANCE[dtype]
    assert not out[-3:].any()
    assert torch.equal(key_pages.cpu().float().nan_to_num(), expected_keys.nan_to_num())
    assert torch.equal(value_pages.cpu().float().nan_to_num(), expected_values.nan_to_num())


@device_test
@pytest.mark.parametrize(
    ("shape", "window", "softcap", "sinks", "alibi"),
    [
        later(ODD, None, 5.0, False, False),
        (WIDE, None, None, True, True),
        later(ODD, None, 5.0, True, True),
        (WIDE, 1, None, False, True),
        later(ODD, 17, None, True, False),
        (ODD, 17, 5.0, False, True),
        later(WIDE, 64, 5.0, True, False),
    ],
)
@pytest.mark.parametrize("requests", [DECODE, MIXED])
def test_masks(
    shape: Shape, requests: list[tuple[int, int]], window: int | None, softcap: float | None, sinks: bool, alibi: bool
) -> None:
    step = make_step(shape, requests, torch.float32, window=window, softcap=softcap, sinks=sinks, alibi=alibi)
    out = step.to(DEVICE).call(kernel(ops.paged_attention).run)[0]
    assert error(out.cpu(), step.expected()[0]) <= 2e-5


@device_test
@pytest.mark.parametrize("page_size", [4, later(16), later(64), 24])
@pytest.mark.parametrize("requests", [[(0, 0), (3, 40), (0, 0), (1, 20)], [(4, 4), (0, 0), (0, 0), (0, 0), (0, 0)]])
def test_requests_without_rows(requests: list[tuple[int, int]], page_size: int) -> None:
    """As a captured step has them: rows are padded, requests are padded, or there are fewer rows than requests."""
    step = make_step(Shape(page_size=page_size), requests, torch.float32)
    out = step.to(DEVICE).call(kernel(ops.paged_attention).run)[0]
    assert error(out.cpu(), step.expected()[0]) <= 2e-5


@device_test
@pytest.mark.parametrize("config", [DecodeConfig(16, 3, 16), later(DecodeConfig(32, 7, 32)), DecodeConfig(16, 0, 16)])
@pytest.mark.parametrize(("page_size", "window", "sinks"), [(16, None, True), (64, 40, False), (5, 50, True)])
@pytest.mark.parametrize("writes", [later(False), True])
def test_decode_shares(config: DecodeConfig, page_size: int, window: int | None, sinks: bool, writes: bool) -> None:
    """Contexts cut into shares, more than some contexts fill; twice, since the first has to reset its counts."""
    shape = Shape(heads=6, kv_heads=2, page_size=page_size)
    step = make_step(shape, [(1, 100), (1, 1), (1, 33)], torch.float32, window=window, sinks=sinks)

    def run(*tensors: Tensor, scale: float, window: int | None = None, sinks: Tensor | None = None) -> Tensor:
        q, k, v, keys, values, query_start, context_len, table, slots = tensors
        out = torch.full_like(q, float("nan"))
        paged, scoring = Paged(keys, values, query_start, context_len, table), Scoring(scale, window, None, sinks)
        fresh = Fresh(k, v, slots)
        if not writes:
            write_cache(fresh, paged, out)
        decode(q, paged, scoring, out, config, fresh if writes else None)
        return out

    for _ in range(2):
        out, keys, values = (x.cpu() for x in step.to(DEVICE).call(run))
        expected = step.expected()
        assert error(out, expected[0]) <= 2e-5
        assert torch.equal(keys.nan_to_num(), expected[1].nan_to_num())
        assert torch.equal(values.nan_to_num(), expected[2].nan_to_num())


@device_test
def test_more_shares_are_merged_than_few() -> None:
    step = make_step(Shape(heads=2, kv_heads=1), [(1, 2100), (1, 700)], torch.float32)

    def run(*tensors: Tensor, scale: float) -> Tensor:
        q, k, v, keys, values, query_start, context_len, table, slots = tensors
        out = torch.full_like(q, float("nan"))
        paged = Paged(keys, values, query_start, context_len, table)
        decode(q, paged, Scoring(scale), out, DecodeConfig(64, 12, 64), Fresh(k, v, slots))
        return out

    assert error(step.to(DEVICE).call(run)[0].cpu(), step.expected()[0]) <= 2e-5


@device_test
@pytest.mark.parametrize("requests", [[(3, 40), (0, 0), (1, 20), (0, 0)], [(1, 40), (0, 0), (2, 2), (0, 0), (0, 0)]])
@pytest.mark.parametrize("window", [later(None), 2, later(30)])
@pytest.mark.parametrize("rotary", [0, 32])
def test_rows_of_a_request_see_each_other(requests: list[tuple[int, int]], window: int | None, rotary: int) -> None:
    """Where rows do not outnumber requests, one kernel writes the cache and attends, and some request has several."""
    step = make_step(Shape(heads=6, kv_heads=2), requests, torch.float32, window=window)
    op = ops.rope_paged_attention if rotary else ops.paged_attention
    q, k, v, *rest = step.tensors
    angles = [torch.randn(len(q), rotary).to(q) for _ in range(2 * (rotary > 0))]
    out = kernel(op).run(*(x.clone().to(DEVICE) for x in (q, k, v, *angles, *rest)), **step.options)
    expected = op.reference(*(x.clone() for x in (q, k, v, *angles, *rest)), **step.options)
    assert error(out.cpu(), expected) <= 2e-5


@device_test
@pytest.mark.parametrize("prompt", [False, True])
def test_every_candidate_of_attention_is_right(prompt: bool) -> None:
    dtype = torch.float16
    attention = Attention(8, 2, 128, 128, "float16", "float16", prompt)
    tunable = kernel(ops.paged_attention).tunable
    assert tunable is not None
    step = make_step(Shape(8, 2, 128, 128), [(5, 300), (1, 70)] if prompt else [(1, 300), (1, 70)], dtype)
    configs = tunable.configs(6 if prompt else 2, attention)
    assert len(configs) > 2
    for config in configs:
        assert config == tunable.config_type(**asdict(config))
        out = step.to(DEVICE).call(tunable.bind(config))[0]
        assert error(out.cpu(), step.expected()[0]) <= TOLERANCE[dtype], config
    assert not tunable.configs(2, replace(attention, key_width=512))


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("requests", [DECODE, MIXED])
@pytest.mark.parametrize(("rotary", "interleaved", "padding"), [(64, False, 0), (20, True, 3)])
@pytest.mark.parametrize("many", [1, later(1024)])
def test_rope_paged_attention(
    requests: list[tuple[int, int]],
    many: int,
    rotary: int,
    interleaved: bool,
    padding: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rope_cache, "MANY_ROWS", many)  # a program takes all heads of a row, or one key-value head
    step = make_step(Shape(heads=6, kv_heads=2), requests, dtype, padding=padding)
    q, k, v, *rest = step.tensors
    cos, sin = (torch.randn(len(q), rotary).to(dtype) for _ in range(2))
    options = {**step.options, "interleaved": interleaved}
    results = []
    for run, device, wide in (
        (kernel(ops.rope_paged_attention).run, DEVICE, dtype),
        (ops.rope_paged_attention.reference, "cpu", torch.float32),
    ):
        tensors = [x.clone().to(device, wide if x.is_floating_point() else x.dtype) for x in (q, k, v, cos, sin, *rest)]
        results.append([x.cpu().float().nan_to_num() for x in (run(*tensors, **options), *tensors[5:7])])
    for out, expected in zip(*results, strict=True):
        assert error(out, expected) <= TOLERANCE[dtype]


@device_test
@pytest.mark.parametrize("cached", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize(
    ("scaled", "rotated", "requests", "dtype"),
    [
        (True, True, DECODE, torch.float32),
        later(False, True, MIXED, torch.float32),
        later(False, False, DECODE, torch.bfloat16),  # its products are of halves, which the interpreter can multiply
        (True, False, MIXED, torch.bfloat16),
    ],
)
def test_a_cache_of_8_bits(
    requests: list[tuple[int, int]], rotated: bool, scaled: bool, cached: torch.dtype, dtype: torch.dtype
) -> None:
    """What the cache then holds is the reference's bit for bit: rounded to the nearest, and saturated."""
    step = make_step(Shape(heads=6, kv_heads=2), requests, dtype, padding=2)
    q, k, v, key_pages, value_pages, *tables = step.tensors
    k[1:3, :, :3] *= 1000.0
    if INTERPRETED and cached == torch.float8_e4m3fn:  # the interpreter drops the carry of a rounded mantissa
        k, v = (x.clamp(-448.0, 448.0).to(cached).to(dtype) for x in (k, v))
    pages = [(page.nan_to_num(20.0) * 5).to(cached) for page in (key_pages, value_pages)]
    scales = [torch.tensor([0.25, 0.125]), torch.tensor([0.0625, 0.25])] if scaled else []
    quarter_turns = torch.randint(0, 4, (len(q), 32)) * (torch.pi / 2)
    angles = [turned.round().to(dtype) for turned in (quarter_turns.cos(), quarter_turns.sin())] if rotated else []
    op = ops.rope_paged_attention if rotated else ops.paged_attention
    results = []
    for run, device, wide in ((kernel(op).run, DEVICE, dtype), (op.reference, "cpu", torch.float32)):
        given = [x.to(device, wide) for x in (q, k, v, *angles)]
        held = [page.clone().to(device) for page in pages]
        rest = [x.to(device) for x in tables]
        options = dict(zip(("key_scale", "value_scale"), [x.to(device) for x in scales], strict=False))
        out = run(*given, *held, *rest, **step.options, **options)
        results.append([x.cpu().float() for x in (out, *held)])
    (out, *held), (expected, *expected_held) = results
    assert error(out, expected) <= max(2 * TOLERANCE[dtype], 5e-5)
    assert all(torch.equal(one, other) for one, other in zip(held, expected_held, strict=True))

"""Norms, rotary embedding and gated activations."""

from __future__ import annotations

import pytest
import torch

from autodeploy import ops
from tests.kernels.device import DEVICE, DTYPES, INTERPRETED, check, close, device_test, draw, kernel


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [61, 576])
@pytest.mark.parametrize(("offset", "wide"), [(0.0, False), (1.0, False), (1.0, True)])
def test_rms_norm(width: int, offset: float, wide: bool, dtype: torch.dtype) -> None:
    check(ops.rms_norm, draw(2, 3, width, dtype=dtype), draw(width, dtype=dtype), 1e-5, offset, wide)
    check(ops.rms_norm, draw(4, 2 * width, dtype=dtype)[:, width:], None, 1e-5, offset, wide)


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("offset", "wide"), [(0.0, False), (1.0, True)])
def test_add_rms_norm(offset: float, wide: bool, dtype: torch.dtype) -> None:
    wider, weight = draw(2, 3, 2 * 75, dtype=dtype), draw(75, dtype=dtype)
    check(ops.add_rms_norm, wider[..., :75], wider[..., 75:], weight, 1e-5, offset, wide)
    check(ops.add_rms_norm, draw(75, dtype=dtype), draw(75, dtype=dtype), None, 1e-5, offset, wide)


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("width", "rotary"), [(64, 64), (80, 20)])
def test_rope(width: int, rotary: int, interleaved: bool, dtype: torch.dtype) -> None:
    for angle_dtype in {dtype, torch.float32}:
        cos, sin = draw(7, rotary, dtype=angle_dtype), draw(7, rotary, dtype=angle_dtype)
        joined = draw(7, 5, width, dtype=dtype)
        check(ops.rope, joined[:, 1:4], cos, sin, interleaved)
        check(ops.rope, draw(2, 7, 1, width, dtype=dtype), cos[None], sin[None], interleaved)


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", list(ops.ACTIVATIONS))
def test_gated_activation(kind: str, dtype: torch.dtype) -> None:
    gate, up = draw(2, 3, 2 * 75, dtype=dtype).chunk(2, dim=-1)
    check(ops.gated_activation, gate, up, kind)


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("pairs", "scaling"), [(64, 1.0), (10, 1.3465735902799727)])
def test_rotary_tables(pairs: int, scaling: float, interleaved: bool, dtype: torch.dtype) -> None:
    positions = torch.randint(131072, (2, 5), device=DEVICE)
    frequencies = (5e5 ** -(torch.arange(pairs) / pairs)).to(DEVICE)
    given = (positions, frequencies, dtype, scaling, interleaved)
    for one, other in zip(kernel(ops.rotary_tables).run(*given), ops.rotary_tables.reference(*given), strict=True):
        assert one.dtype == dtype
        close(one, other.float())
        assert INTERPRETED or (one == other).double().mean() > 0.99, "both are the device's own cosines"
    assert [len(one) for one in kernel(ops.rotary_tables).run(positions[:0], *given[1:])] == [0, 0]


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [61, 2304])
def test_embedding(width: int, dtype: torch.dtype) -> None:
    weight = draw(50, 2 * width, dtype=dtype)[:, width:]
    for ids in (torch.randint(50, (1, 7), device=DEVICE), torch.randint(50, (3, 14), device=DEVICE)[:, ::2]):
        assert torch.equal(kernel(ops.embedding).run(weight, ids), ops.embedding.reference(weight, ids))
    assert kernel(ops.embedding).run(weight, ids[:, :0]).shape == (3, 0, width)

"""Projections by stored weights of each row's expert."""

from __future__ import annotations

import pytest
import torch

from autodeploy import ops
from autodeploy.quantization import Scheme, dequantize, round_weight
from tests.kernels.device import DEVICE, INTERPRETED, device_test, draw, kernel
from tests.kernels.steps import error

pytest.importorskip("autodeploy.kernels.triton.packed_experts")

SCHEMES = {
    "mxfp4": Scheme(weights="mxfp4", scope="group", group=32),
    "int4": Scheme(weights="int4", scope="group", group=64),
    "int4 with zeros": Scheme(weights="int4", scope="group", group=32, zeros=True),
    "int8": Scheme(weights="int8"),
    "fp8": Scheme(weights="fp8"),
    "fp8, one scale": Scheme(weights="fp8", scope="tensor"),
    "fp8 in blocks": Scheme(weights="fp8", scope="block"),
}
CASES = {"few rows, tails": (3, 2, 3, 40, 192), "many rows, several turns": (60, 2, 3, 72, 256)}
SLOW = ("fp8, one scale", "int4", "int8")
"""In the interpreter, where a case takes a second."""
DTYPES = [torch.float16] if INTERPRETED else [torch.bfloat16]
CHOSEN = [(name, case) for case in CASES for name in SCHEMES if not INTERPRETED or name not in SLOW or "few" in case]


@device_test
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "case"), CHOSEN)
def test_the_products_are_those_of_the_numbers(name: str, case: str, dtype: torch.dtype) -> None:
    (tokens, each, count, n, k), scheme = CASES[case], SCHEMES[name]
    parts = [round_weight(draw(n, k, dtype=dtype), scheme) for _ in range(count)]
    weight, scale = (torch.stack([getattr(one, part) for one in parts]) for part in ("values", "scale"))
    zeros = [one.zero for one in parts if one.zero is not None]
    zero, bias = torch.stack(zeros) if zeros else None, draw(count, n, dtype=dtype)
    numbers = torch.stack([dequantize(one.values, one.scale, one.zero, None, scheme.weights) for one in parts])
    experts = torch.stack([torch.randperm(count)[:each] for _ in range(tokens)]).to(DEVICE)
    for x in (draw(tokens, 1, k, dtype=dtype), draw(tokens, each, k, dtype=dtype)):
        given = (x, experts, weight, scale, zero, bias, scheme.weights)
        wanted = ops.expert_linear.reference(x.double(), experts, numbers.double(), bias.double())
        assert kernel(ops.packed_expert_linear).declines(*given) is None
        assert error(ops.packed_expert_linear.reference(*given), wanted) < 1e-2
        assert error(kernel(ops.packed_expert_linear).run(*given), wanted) < 1e-2


def test_what_it_cannot_read_is_declined() -> None:
    served = kernel(ops.packed_expert_linear)
    x, experts = torch.empty(2, 96, dtype=torch.float16), torch.zeros(2, dtype=torch.int64)
    weight, scale = torch.empty(3, 4, 48, dtype=torch.uint8), torch.empty(3, 4, 2)
    assert served.declines(x, experts, weight, scale, None, None, "int4") == (
        "groups of 48 are no power of two of at least 16"
    )
    assert served.declines(x, experts, weight, scale[..., :1], None, torch.empty(3, 4), "int4") == (
        "the arguments differ in dtype"
    )
    assert not served.waits

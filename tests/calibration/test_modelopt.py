"""What comes through the door to modelopt, and what is said where it is shut."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch import Tensor

from autodeploy.calibration import modelopt
from autodeploy.errors import UnsupportedError
from autodeploy.quantization import SCHEMES, dequantize, round_weight
from autodeploy.quantization.option import TECHNIQUES


def sample() -> tuple[Tensor, list[Tensor]]:
    generator = torch.manual_seed(7)
    channels = torch.where(torch.arange(64) % 16 == 3, 20.0, 1.0)
    return torch.randn(48, 64, generator=generator), [
        torch.randn(1, 100, 64, generator=generator) * channels for _ in range(3)
    ]


@pytest.mark.parametrize(("name", "alpha"), [("smoothquant", 0.5), ("smoothquant_static", 1.0)])
def test_smoothquant_is_its_formula(name: str, alpha: float) -> None:
    pytest.importorskip("scipy")  # it comes with modelopt
    weight, inputs = sample()
    found = modelopt.input_factors(weight, inputs, SCHEMES["int8_dynamic"], TECHNIQUES[name])
    largest = torch.cat(inputs).abs().amax((0, 1))
    assert torch.allclose(found, weight.abs().amax(0) ** (1 - alpha) / largest**alpha, rtol=1e-5)


def test_awq_moves_outputs_less_than_rounding_to_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    (weight, inputs), scheme = sample(), SCHEMES["int4_g32"]
    factors = modelopt.input_factors(weight, inputs, scheme, TECHNIQUES["awq_g32"])

    def loss(scaled: Tensor, given: Tensor) -> float:
        parts = round_weight(scaled, scheme)
        rounded = dequantize(parts.values, parts.scale, None, None, "int4")
        return float((given @ rounded.T - torch.cat(inputs) @ weight.T).square().mean())

    assert loss(weight / factors, torch.cat(inputs) * factors) < 0.7 * loss(weight, torch.cat(inputs))
    assert capsys.readouterr().out == ""  # stdout may be somebody's JSON


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(modelopt, "version", missing)
    with pytest.raises(UnsupportedError, match=r"is not installed: pip install 'fx-autodeploy\[quantize\]'"):
        modelopt.input_factors(*sample(), SCHEMES["int4_g32"], TECHNIQUES["awq_g32"])


def test_nvfp4_needs_a_gpu() -> None:
    with pytest.raises(UnsupportedError, match="nvfp4 on a CUDA device only; without one take --quantize nvfp4"):
        modelopt.refuse(SCHEMES["nvfp4"], torch.device("cpu"))
    modelopt.refuse(SCHEMES["nvfp4"], torch.device("cuda"))

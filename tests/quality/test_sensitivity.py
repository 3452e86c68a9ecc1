from __future__ import annotations

import pytest
import torch

import autodeploy as ad
from autodeploy.optimizer import Optimized
from autodeploy.quality.sensitivity import APART, Trials, Unit, measure_layers, measure_sensitivities
from autodeploy.quantization import SCHEMES
from autodeploy.testing import tiny_model
from autodeploy.weights import SafetensorsSource

WINDOWS = [torch.randint(90, (24,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(2)]


@pytest.fixture(scope="module")
def optimized(tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    """With weights so large that the tokens differ in how likely they are."""
    folder, model = tmp_path_factory.mktemp("model"), tiny_model("llama")
    for weight in model.parameters():
        weight.data *= 5 if weight.dim() > 1 else 1
    model.save_pretrained(folder)
    return ad.optimize(ad.trace(str(folder)), gpu="cpu", set=APART, source=SafetensorsSource(folder))


@pytest.fixture(scope="module")
def trials(optimized: Optimized) -> Trials:
    return Trials(optimized, torch.device("cpu"), WINDOWS)


def test_units_are_what_reads_one_input(trials: Trials) -> None:
    names = [unit.names for unit in trials.units]
    layer = "model.layers.0"
    assert names[:4] == [
        tuple(f"{layer}.self_attn.{one}_proj" for one in "qkv"),
        (f"{layer}.self_attn.o_proj",),
        (f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"),
        (f"{layer}.mlp.down_proj",),
    ]
    assert not any("lm_head" in name for unit in names for name in unit)


def test_fewer_bits_lose_more(trials: Trials) -> None:
    told: list[Unit] = []
    found = measure_sensitivities(trials, {"int4_g32": SCHEMES["int4_g32"], "int8": SCHEMES["int8"]}, told.append)
    assert tuple(told) == trials.units
    assert len(found) == 2 * len(trials.units) - 2  # groups of 32 do not divide the 80 inputs of down_proj
    eight, four = (sum(one.kl for one in found if one.scheme == name) for name in ("int8", "int4_g32"))
    assert 0 < eight < four / 20


def test_what_is_told_of_a_scheme_is_near_what_it_loses(trials: Trials) -> None:
    schemes = {name: SCHEMES[name] for name in ("int4_g32", "int8")}
    found = [one for one in measure_sensitivities(trials, schemes) if one.unit == trials.units[0]]
    coarse, fine = (trials.loss(dict.fromkeys(trials.units[0].names, scheme)) for scheme in schemes.values())
    assert found[0].kl == pytest.approx(coarse)
    assert fine / 3 < found[1].kl < fine * 3


def test_a_scheme_that_does_not_fit_is_left_out(trials: Trials) -> None:
    assert measure_sensitivities(trials, {"int4": SCHEMES["int4"]}) == ()  # groups of 128 do not divide 64


def test_only_weights_are_rounded(trials: Trials) -> None:
    names = trials.units[0].names
    weights, inputs_too = (trials.loss(dict.fromkeys(names, SCHEMES[name])) for name in ("int8", "int8_dynamic"))
    assert weights == inputs_too


def test_layers_are_measured_by_themselves(trials: Trials) -> None:
    schemes = {name: SCHEMES["int8"] for unit in trials.units for name in unit.names}
    told: list[float] = []
    found = measure_layers(trials, schemes, told.append)
    assert list(found) == ["model.layers.0", "model.layers.1"]
    assert list(found.values()) == told
    first = {name: scheme for name, scheme in schemes.items() if ".layers.0." in name}
    assert found["model.layers.0"] == trials.loss(first) > 0
    assert measure_layers(trials, dict.fromkeys(schemes, SCHEMES["none"])) == {}

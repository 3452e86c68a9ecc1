"""Models that nobody here has heard of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import autodeploy as ad
from autodeploy.hardware import Device
from autodeploy.job import plan
from autodeploy.testing import tiny_config

SENTENCE = "no recipe knows the architecture 'homemade'; it gets the default pipeline"


class HomemadeConfig(LlamaConfig):  # type: ignore[no-untyped-call]
    model_type = "homemade"


class HomemadeForCausalLM(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    config_class = HomemadeConfig


@pytest.fixture
def model(tmp_path: Path) -> Iterator[str]:
    """A folder of a model of a user's own, registered as transformers has it."""
    AutoConfig.register("homemade", HomemadeConfig)
    AutoModelForCausalLM.register(HomemadeConfig, HomemadeForCausalLM)
    sizes = {**tiny_config("llama").to_dict(), "model_type": "homemade", "architectures": ["HomemadeForCausalLM"]}
    HomemadeConfig(**sizes).save_pretrained(tmp_path / "model")
    yield str(tmp_path / "model")
    CONFIG_MAPPING._extra_content.pop("homemade")
    MODEL_FOR_CAUSAL_LM_MAPPING._extra_content.pop(HomemadeConfig)


def test_an_unknown_architecture_deploys_with_the_fallback_and_says_so(model: str, tmp_path: Path) -> None:
    assert SENTENCE in plan(model, gpu="h200").notes
    ad.build(model, out=tmp_path / "out", gpu="cpu", dtype="fp32", load_format="random")
    llm = ad.LLM(tmp_path / "out", engine="inline")
    (answer,) = llm.generate([[1, 2, 3]], ad.SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
    assert len(answer.outputs[0].token_ids) == 4


def test_a_device_that_no_file_describes_is_planned_and_built_for_as_the_slowest_of_its_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as a machine without it can go: the artifact is whole, and its kernels are tuned at the first load."""
    monkeypatch.setattr("autodeploy.hardware.find_device", lambda: Device("NVIDIA H20", (9, 0), 102.3))
    tiny_config("llama").save_pretrained(tmp_path / "model")
    found = plan(str(tmp_path / "model"), gpu="auto")
    (device,) = [one for one in found.decisions if one.what == "device"]
    assert device.reason == "no file describes NVIDIA H20; it is planned as h100-pcie with its own memory"
    assert found.outlook is not None
    assert found.outlook.fit.capacity == 102.3e9
    built = ad.build(str(tmp_path / "model"), out=tmp_path / "out", gpu="auto", load_format="random")
    assert device.value in str(built.manifest.details)
    built.check_weights()


def test_a_model_that_cannot_be_traced_is_sized_and_the_reason_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: object, input_ids: object, **_: object) -> None:
        raise ValueError("its author gave up")

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    tiny_config("llama").save_pretrained(tmp_path)
    outlook = plan(str(tmp_path), gpu="h200").outlook
    assert outlook is not None
    assert outlook.card.num_parameters > 0
    assert not outlook.speeds
    assert "its author gave up" in outlook.rejected[0].reason

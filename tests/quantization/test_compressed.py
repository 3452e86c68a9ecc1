"""Checkpoints in the layout of compressed-tensors, read back by that library and by transformers."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.quantization_config import CompressedTensorsConfig
from typing_extensions import override

import autodeploy as ad
from autodeploy.compressed import files
from autodeploy.compressed.files import Unit, write_files
from autodeploy.compressed.layout import supported
from autodeploy.errors import InputError, ModelError, RecipeError, UnsupportedError
from autodeploy.graph.nodes import calls_of
from autodeploy.progress import NullProgress
from autodeploy.quality import log_probs
from autodeploy.quality.sensitivity import APART
from autodeploy.quantization import SCHEMES, Scheme, dequantize, round_weight
from autodeploy.weights import SafetensorsSource

CONFIG = {
    "vocab_size": 96,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
ops = torch.ops.autodeploy
UNTUNED = {"passes.tune_kernels": False}
QUANTIZED = [name for name, scheme in SCHEMES.items() if scheme.is_quantized]
TOKEN_IDS = torch.arange(3, 23).unsqueeze(0)
FULL = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")


@dataclass(frozen=True)
class Told(NullProgress):
    """Keeps the sentences that progress is told."""

    notes: list[str] = field(default_factory=list)

    @override
    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    factory: Any = AutoModelForCausalLM
    folder = tmp_path_factory.mktemp("models") / "tiny"
    factory.from_config(AutoConfig.for_model("llama", **CONFIG)).save_pretrained(folder)
    return folder


def weight_of(model: Path, name: str) -> Tensor:
    return SafetensorsSource(model).read(f"{name}.weight")


def rounded(weight: Tensor, scheme: Scheme) -> Tensor:
    parts = round_weight(weight, scheme)
    return dequantize(parts.values, parts.scale, parts.zero, parts.global_scale, scheme.weights)


def error(out: Tensor, reference: Tensor) -> float:
    return float(((out - reference).norm() / reference.norm()).detach())


def settings_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return found


def logits(folder: Path, schemes: Mapping[str, Scheme] | None = None, **options: Any) -> Tensor:
    """What transformers computes in float32: of a checkpoint, or of a model whose weights are rounded here."""
    factory: Any = AutoModelForCausalLM
    model = factory.from_pretrained(folder, dtype=torch.float32, **options)
    for name, scheme in (schemes or {}).items():
        linear = model.get_submodule(name)
        linear.weight.data = rounded(linear.weight.data, scheme)
    found: Tensor = model(TOKEN_IDS).logits
    return found


@cache
def projections() -> tuple[str, ...]:
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    mlp = [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    return tuple(f"model.layers.{layer}.{name}" for layer in range(2) for name in (*attention, *mlp))


@pytest.mark.parametrize("name", QUANTIZED)
def test_the_library_reads_the_numbers_of_our_rounding(model: Path, tmp_path: Path, name: str) -> None:
    written = ad.quantize(str(model), quantize=name, out=tmp_path / "out")
    assert written.schemes == {name: 14}
    assert written.left == ("lm_head",)
    (scheme,) = QuantizationConfig.model_validate(settings_of(written.path)).config_groups.values()
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    source = SafetensorsSource(written.path)
    for projection in projections():
        held = [key for key in source.keys() if key.startswith(f"{projection}.")]  # noqa: SIM118
        parts = {key.removeprefix(f"{projection}."): source.read(key) for key in held}
        found = compressor.decompress(parts, scheme)["weight"]
        wanted = rounded(weight_of(model, projection), SCHEMES[name])
        if name == "nvfp4":  # the library divides scales in bf16
            assert error(found.float(), wanted) < 4e-3
        else:
            assert torch.equal(found.float(), wanted)


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("int4_zeros_g32", "fp8_block") else pytest.mark.slow)
        for name in QUANTIZED
    ],
)
def test_transformers_gives_the_logits_of_our_rounding(model: Path, tmp_path: Path, name: str) -> None:
    written = ad.quantize(str(model), quantize=name, out=tmp_path / "out")
    wanted = logits(model, dict.fromkeys(projections(), SCHEMES[name]))
    found = logits(written.path, quantization_config=CompressedTensorsConfig(dequantize=True))
    assert error(found, wanted) <= (1e-2 if name == "nvfp4" else 1e-6)
    assert error(logits(model), wanted) > 1e-3  # it was rounded


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in ("int8", "nvfp4") else pytest.mark.slow) for name in QUANTIZED]
)
def test_our_own_loader_gives_the_logits_of_a_build_with_the_scheme(model: Path, tmp_path: Path, name: str) -> None:
    written = ad.quantize(str(model), quantize=name, out=tmp_path / "out")
    """One projection by one, as they are written: one scale for all weights is another when they are joined first."""
    direct, again = (
        ad.optimize(ad.trace(str(folder)), gpu="cpu", quantize=scheme, source=SafetensorsSource(folder), set=settings)
        for folder, scheme, settings in ((model, name, {**UNTUNED, **APART}), (written.path, None, UNTUNED))
    )
    assert calls_of(again.graph_module.graph, ops.packed_linear.default, ops.scaled_linear.default)
    found, wanted = (log_probs(one.program, TOKEN_IDS[0].tolist()) for one in (again, direct))
    assert error(found, wanted) <= 1e-6


def test_rules_give_each_projection_its_scheme(model: Path, tmp_path: Path) -> None:
    rules = [{"match": "lm_head", "scheme": "int8"}, {"match": "*.mlp.*", "layers": 1, "scheme": "int4_g64"}]
    chosen = {"passes.mark_precision.rules": rules}
    written = ad.quantize(str(model), set=chosen, out=tmp_path / "out")
    schemes = {"lm_head": SCHEMES["int8"]}
    schemes |= {name: SCHEMES["int4_g64"] for name in projections() if "layers.1.mlp" in name}
    assert written.schemes == {"int4_g64": 3, "int8": 1}
    assert written.left == tuple(name for name in projections() if name not in schemes)
    found = settings_of(written.path)
    assert found["format"] == "pack-quantized"
    assert [sorted(group["targets"]) for group in found["config_groups"].values()] == [
        sorted(name for name in schemes if name != "lm_head"),
        ["lm_head"],
    ]
    assert error(logits(written.path), logits(model, schemes)) <= 1e-6


def test_what_does_not_fit_stays_and_is_told(tmp_path: Path, model: Path) -> None:
    told = Told()
    rules = [{"match": "*", "scheme": {"weights": "int8"}}, {"match": "*", "scheme": "int4"}]
    config = AutoConfig.for_model("llama", **{**CONFIG, "intermediate_size": 182, "tie_word_embeddings": True})
    factory: Any = AutoModelForCausalLM
    factory.from_config(config).save_pretrained(tmp_path / "odd")
    odd = str(tmp_path / "odd")
    by_rule = ad.quantize(odd, set={"passes.mark_precision.rules": rules}, out=tmp_path / "a", progress=told)
    assert by_rule.left == ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "lm_head")
    name = "model.layers.0.mlp.down_proj"
    assert f"{name} stays as it is: its 182 inputs are no multiple of 4, as many as a word holds" in told.notes
    by_name = ad.quantize(odd, quantize="int4", out=tmp_path / "b", progress=told)
    assert by_name.left == by_rule.left
    assert any("182 inputs are no multiple of the group of 128" in note for note in told.notes)


def test_a_head_that_shares_its_weight_stays(tmp_path: Path) -> None:
    told = Told()
    factory: Any = AutoModelForCausalLM
    config = AutoConfig.for_model("llama", **{**CONFIG, "tie_word_embeddings": True})
    factory.from_config(config).save_pretrained(tmp_path / "tied")
    rules = {"passes.mark_precision.rules": [{"kind": "head", "scheme": "int8"}]}
    written = ad.quantize(str(tmp_path / "tied"), quantize="int8", set=rules, out=tmp_path / "out", progress=told)
    assert written.left == ("lm_head",)
    assert "lm_head stays as it is: it shares its weight, model.embed_tokens.weight" in told.notes


def test_the_rest_is_kept_in_the_chosen_dtype(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer_config.json").write_text("{}")
    written = ad.quantize(str(model), quantize="fp8", dtype="bf16", out=tmp_path / "out")
    source = SafetensorsSource(written.path)
    assert all(torch.equal(source.read(key), SafetensorsSource(model).read(key).bfloat16()) for key in FULL)
    assert json.loads((written.path / "config.json").read_text())["dtype"] == "bfloat16"
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json"}
    assert {file.name for file in written.path.iterdir()} == names
    assert written.nbytes == sum(source.read(key).nbytes for key in source.keys())  # noqa: SIM118


def test_many_files_have_an_index(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ad.quantize(str(model), quantize="int4_zeros", out=tmp_path / "whole")
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 40_000)
    parts = ad.quantize(str(model), quantize="int4_zeros", out=tmp_path / "parts")
    assert len(list(parts.path.glob("model-*-of-*.safetensors"))) > 3
    one, other = SafetensorsSource(whole.path), SafetensorsSource(parts.path)
    assert one.keys() == other.keys()
    assert all(torch.equal(one.read(key), other.read(key)) for key in one.keys())  # noqa: SIM118


def test_one_weight_at_a_time_is_in_memory(tmp_path: Path) -> None:
    living: list[weakref.ref[Tensor]] = []

    def make() -> dict[str, Tensor]:
        assert all(one() is None for one in living)
        tensor = torch.ones(64)
        living.append(weakref.ref(tensor))
        return {f"w{len(living)}": tensor}

    units = [Unit({f"w{number}": torch.empty(64, device="meta")}, make) for number in (1, 2, 3)]
    assert write_files(tmp_path, units) == 3 * 64 * 4
    assert len(living) == 3


def test_matrices_of_experts_are_named_for_servers_that_see_linears_in_them(tmp_path: Path) -> None:
    options = {"num_local_experts": 4, "num_experts_per_tok": 2}
    factory: Any = AutoModelForCausalLM
    factory.from_config(AutoConfig.for_model("mixtral", **CONFIG, **options)).save_pretrained(tmp_path / "experts")
    written = ad.quantize(str(tmp_path / "experts"), quantize="int8", out=tmp_path / "out")
    assert written.schemes == {"int8": 2 * 4}
    assert any(one.startswith("re:") and r"experts\.\d+" in one for one in settings_of(written.path)["ignore"])


def test_a_failure_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_bytes", fail)
    with pytest.raises(InputError, match="out: it cannot be written: No space left on device"):
        ad.quantize(str(model), quantize="int8", out=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_there_already_stays(model: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="it is there already, and stays; give the name of a new folder"):
        ad.quantize(str(model), quantize="int8", out=tmp_path)
    (tmp_path / "empty").mkdir()
    assert ad.quantize(str(model), quantize="int8", out=tmp_path / "empty").path.stat().st_mode & 0o777 == 0o755


def test_schemes_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    assert supported() == QUANTIZED
    with pytest.raises(RecipeError, match="--quantize auto: only autodeploy build looks for a scheme"):
        ad.quantize(str(model), quantize="auto", out=tmp_path / "out")
    with pytest.raises(RecipeError, match="--quantize itn8: no such scheme; did you mean 'int8'"):
        ad.quantize(str(model), quantize="itn8", out=tmp_path / "out")
    odd = {"weights": "int8", "scope": "group", "group": 32, "activations": "dynamic"}
    with pytest.raises(UnsupportedError, match="compressed-tensors has no layout for it; known: fp8, fp8_block"):
        ad.quantize(str(model), set={"passes.mark_precision.rules": [{"scheme": odd}]}, out=tmp_path / "out")
    with pytest.raises(InputError, match="nothing would be quantized: name a scheme by --quantize"):
        ad.quantize(str(model), out=tmp_path / "out")


def test_models_that_cannot_be_quantized(model: Path, tmp_path: Path) -> None:
    ad.quantize(str(model), quantize="int8", out=tmp_path / "once")
    with pytest.raises(ModelError, match="once is quantized already: give the model that it was made from"):
        ad.quantize(str(tmp_path / "once"), quantize="int8", out=tmp_path / "twice")

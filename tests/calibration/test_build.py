"""Builds that calibrate: what becomes of the program, the cache, and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import autodeploy as ad
from autodeploy.artifact import Artifact
from autodeploy.calibration.request import Request
from autodeploy.calibration.walk import Walk
from autodeploy.errors import InputError
from autodeploy.progress import NullProgress


class Told(NullProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: dict[str, int] = {}

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def advance(self, stage: str, count: int = 1) -> None:
        self.stages[stage] = self.stages.get(stage, 0) + count


def build(folder: Path, out: Path, progress: Told | None = None, **options: Any) -> Artifact:
    prose = str(folder / "prose.txt")
    given = {"gpu": "cpu", "dtype": "fp32", "text": prose, "calibrate": prose, **options}
    return ad.build(str(folder), out=out, progress=progress, **given)


def targets(built: Artifact) -> set[str]:
    return {str(node.target) for node in built.graph_module().graph.nodes if node.op == "call_function"}


def kl(built: Artifact) -> float:
    quality: Any = built.manifest.details["quality"]
    return float(quality["kl"])


@pytest.mark.parametrize(
    "method", ["max", "entropy", *(pytest.param(name, marks=pytest.mark.slow) for name in ("percentile", "mse"))]
)
def test_static_scales_of_inputs(model_folder: Path, tmp_path: Path, method: str) -> None:
    told = Told()
    built = build(model_folder, tmp_path / "out", told, quantize="int8_dynamic", method=method)
    assert "autodeploy.scaled_linear.default" in targets(built)
    assert 0 < kl(built) < 0.3
    weights = built.read_weights(torch.device("cpu"))
    scale = weights["model.layers.0.self_attn.o_proj.weight_input_scale"]
    assert scale.shape == ()
    assert scale > 0
    assert told.stages["calibrate"] == 8  # four inputs a layer


@pytest.fixture(scope="module")
def rounded(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A build whose weights are rounded to four bits without a look at any text."""
    return build(model_folder, tmp_path_factory.mktemp("rounded") / "out", quantize="int4_g32", calibrate=None)


@pytest.mark.parametrize(
    "name", ["awq_g32", "gptq_g32", "smoothquant_static", pytest.param("smoothquant", marks=pytest.mark.slow)]
)
def test_techniques(model_folder: Path, tmp_path: Path, rounded: Artifact, name: str) -> None:
    if not name.startswith("gptq"):
        pytest.importorskip("scipy")  # it comes with modelopt
    assert 0 < kl(build(model_folder, tmp_path / "out", quantize=name)) < kl(rounded)


def test_caches_in_int8_get_their_scales(model_folder: Path, tmp_path: Path) -> None:
    built = build(model_folder, tmp_path / "out", set={"passes.quantize_cache.format": "int8"}, verify=True)
    weights = built.read_weights(torch.device("cpu"))
    assert weights["model.layers.1.self_attn.v_scale"].shape == (2,)
    assert (weights["model.layers.1.self_attn.k_scale"] > 0).all()


def test_a_second_build_runs_no_model(model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(model_folder, tmp_path / "first", quantize="gptq_g32", text="none")
    monkeypatch.setattr(Walk, "run", lambda *_: pytest.fail("it ran the model"))
    told = Told()
    second = build(model_folder, tmp_path / "second", told, quantize="gptq_g32", text="none")
    assert any(note.startswith("calibrated before: ") for note in told.notes)
    assert second.manifest.files["weights-00001.safetensors"] == first.manifest.files["weights-00001.safetensors"]


@pytest.mark.parametrize("file", ["tensors.safetensors", "calibration.json"])
def test_a_damaged_entry_is_made_again(model_folder: Path, tmp_path: Path, cache: Path, file: str) -> None:
    first = build(model_folder, tmp_path / "first", quantize="fp8_tensor", text="none")
    (entry,) = (cache / "calibration").iterdir()
    data = bytearray((entry / file).read_bytes())
    data[-3] ^= 1
    (entry / file).write_bytes(bytes(data))
    told = Told()
    second = build(model_folder, tmp_path / "second", told, quantize="fp8_tensor", text="none")
    assert any(f"{entry} is damaged" in note for note in told.notes)
    assert second.manifest.files["weights-00001.safetensors"] == first.manifest.files["weights-00001.safetensors"]
    assert told.stages["calibrate"] == 8


def test_each_method_and_text_has_an_entry_of_its_own(model_folder: Path, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "other.txt").write_text("pack my box\n\nwith five dozen liquor jugs " * 9)
    asked: list[dict[str, Any]] = [{}, {"method": "mse"}, {"calibrate": str(tmp_path / "other.txt")}]
    for number, options in enumerate(asked):
        build(model_folder, tmp_path / str(number), quantize="int8_dynamic", text="none", **options)
    assert len(list((cache / "calibration").iterdir())) == 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"quantize": "int8"}, "there is nothing to calibrate; schemes with 8-bit inputs have ranges"),
        ({"quantize": "int8_dynamic", "method": "mean"}, "--method mean: not a choice; did you mean"),
        ({"calibrate": None, "method": "mse"}, "--method mse: it says how to calibrate; add --calibrate"),
        ({"quantize": "awq_g32", "load_format": "random"}, "needs the checkpoint's weights"),
        ({"quantize": "int8_dynamic", "calibrate": "none.txt"}, "does not exist"),
    ],
)
def test_mistakes(model_folder: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build(model_folder, tmp_path / "out", **options)


def test_optimize_does_not_calibrate(model_folder: Path) -> None:
    with pytest.raises(InputError, match=r"optimize\(quantize='awq'\): it is calibrated on text"):
        ad.optimize(ad.trace(str(model_folder)), quantize="awq")


def test_what_calibrates_by_itself() -> None:
    assert Request.of("int8", "auto", None, None) is None
    found = Request.of("awq_g64", "auto", None, None)
    assert found is not None
    assert (found.text, found.technique.scheme) == ("sample", "int4_g64")

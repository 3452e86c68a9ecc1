"""What builds say of their own loss, and the limits that they are held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import autodeploy as ad
from autodeploy.errors import InputError, QualityError
from autodeploy.testing import tiny_model


@pytest.fixture(scope="module")
def loud_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokens differ in how likely they are, with a tokenizer of letters, and a text beside it."""
    folder = tmp_path_factory.mktemp("loud")
    model = tiny_model("llama")
    for weight in model.parameters():
        weight.data *= 5 if weight.dim() > 1 else 1
    model.save_pretrained(folder)
    letters = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz ?")}
    words = Tokenizer(models.WordLevel(letters, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    factory: Any = PreTrainedTokenizerFast
    factory(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    (folder / "prose.txt").write_text("the quick brown fox\n\n" + "jumps over the lazy dog again and again " * 6)
    return folder


def built(folder: Path, out: Path, **options: Any) -> dict[str, Any]:
    given = {"gpu": "cpu", "dtype": "fp32", "text": str(folder / "prose.txt"), **options}
    return dict(ad.build(str(folder), out=out, **given).manifest.details)


def test_what_a_build_loses_is_kept_in_it(loud_folder: Path, tmp_path: Path) -> None:
    quality = built(loud_folder, tmp_path / "out", quantize="int8")["quality"]
    assert quality["text"] == "prose.txt"
    assert quality["num_tokens"] > 50
    assert 0 < quality["kl"] < 0.1
    assert 0.5 < quality["agreement"] <= 1
    assert set(quality["layers"]) == {"model.layers.0", "model.layers.1"}
    assert all(0 < loss < 0.1 for loss in quality["layers"].values())


def test_a_build_that_rounds_nothing_says_nothing(loud_folder: Path, tmp_path: Path) -> None:
    assert "quality" not in built(loud_folder, tmp_path / "out")


def test_nothing_is_measured_where_nobody_wants_it(loud_folder: Path, tmp_path: Path) -> None:
    assert built(loud_folder, tmp_path / "out", quantize="int8", text="none")["quality"] is None


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"max_kl": 1e-9}, r"the KL divergence is .* nats a token, and --max-kl allows 1e-09; --quantize auto finds"),
        ({"min_agreement": 1.0, "max_kl": 1e-9}, "KL divergence"),
    ],
)
def test_past_its_limits_a_build_leaves_nothing(
    loud_folder: Path, tmp_path: Path, limits: dict[str, float], sentence: str
) -> None:
    with pytest.raises(QualityError, match=sentence):
        built(loud_folder, tmp_path / "out", quantize="int8", **limits)
    assert not (tmp_path / "out").exists()


def test_limits_that_nothing_can_measure(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--max-kl, --min-agreement: the loss cannot be measured, for the model came"):
        ad.build(str(model_folder), out=tmp_path / "out", gpu="cpu", quantize="int8", max_kl=0.1)
    with pytest.raises(InputError, match="--quantize auto: the loss cannot be measured, for the weights are random"):
        ad.build(str(model_folder), out=tmp_path / "out", gpu="cpu", quantize="auto", load_format="random")


def test_auto_keeps_to_the_limit_with_fewer_bytes(loud_folder: Path, tmp_path: Path) -> None:
    found = ad.build(
        str(loud_folder),
        out=tmp_path / "out",
        gpu="cpu",
        dtype="fp32",
        quantize="auto",
        max_kl=0.2,
        text=str(loud_folder / "prose.txt"),
    )
    details: dict[str, Any] = dict(found.manifest.details)
    assert 0 < details["quality"]["kl"] <= 0.2
    weights = found.read_weights()
    assert any(name.endswith("weight_values") for name in weights)
    assert len(ad.LLM(found.path, engine="inline").generate([[5, 6, 7]], ad.SamplingParams(max_tokens=4))) == 1


def test_auto_loses_no_more_than_nothing_where_it_may_not(loud_folder: Path, tmp_path: Path) -> None:
    quality = built(loud_folder, tmp_path / "out", quantize="auto", max_kl=1e-12).get("quality")
    assert quality is None or quality["kl"] <= 1e-12

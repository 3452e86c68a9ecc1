"""From a model's folder to an artifact that answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import autodeploy as ad
from autodeploy.artifact import Artifact
from autodeploy.errors import InputError
from autodeploy.progress import NullProgress


class Notes(NullProgress):
    """Remembers what the user was told."""

    def __init__(self) -> None:
        object.__setattr__(self, "sentences", [])

    def note(self, sentence: str) -> None:
        self.sentences.append(sentence)  # type: ignore[attr-defined]


def greedy(folder: Path, prompt: list[int], num_tokens: int) -> list[int]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([prompt])
    answer = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, pad_token_id=0
    )
    tokens: list[int] = answer[0, len(prompt) :].tolist()
    return tokens


def test_an_artifact_answers_as_transformers_does(model_folder: Path, built: Artifact) -> None:
    llm = ad.LLM(built.path)
    prompts = [[5, 6, 7, 8], list(range(10, 40))]
    outputs = llm.generate(prompts, ad.SamplingParams(max_tokens=12, temperature=0))
    assert [list(one.outputs[0].token_ids) for one in outputs] == [greedy(model_folder, one, 12) for one in prompts]


def test_a_reference_is_built_into_the_cache_once(model_folder: Path) -> None:
    told = Notes()
    params = ad.SamplingParams(max_tokens=4, temperature=0)
    first = ad.LLM(str(model_folder), gpu="cpu", dtype="fp32", progress=told).generate([[5, 6, 7]], params)
    assert told.sentences == []  # type: ignore[attr-defined]
    second = ad.LLM(str(model_folder), gpu="cpu", dtype="fp32", progress=told).generate([[5, 6, 7]], params)
    assert "this very build" in told.sentences[0]  # type: ignore[attr-defined]
    assert first[0].outputs[0].token_ids == second[0].outputs[0].token_ids


def test_a_changed_option_builds_anew(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with_fusion = ad.build(str(model_folder), out=out, gpu="cpu", dtype="fp32")
    without = ad.build(str(model_folder), out=out, gpu="cpu", dtype="fp32", set={"passes.fuse_qkv": False})
    names = [{report["name"] for report in one.history} for one in (with_fusion, without)]
    assert "fuse_qkv" not in names[1]
    assert with_fusion.manifest.details["fingerprint"] != without.manifest.details["fingerprint"]


def test_an_interrupted_build_leaves_nothing(model_folder: Path, tmp_path: Path) -> None:
    class Interrupt(NullProgress):
        def start(self, stage: str, total: int | None = None) -> None:
            if stage == "weights":
                raise KeyboardInterrupt

    out = tmp_path / "builds" / "out"
    with pytest.raises(KeyboardInterrupt):
        ad.build(str(model_folder), out=out, gpu="cpu", dtype="fp32", progress=Interrupt())
    assert not out.exists()
    assert not list(tmp_path.glob("builds/*"))


def test_random_weights_need_no_checkpoint(model_folder: Path, tmp_path: Path) -> None:
    (model_folder / "model.safetensors").unlink()
    artifact = ad.build(str(model_folder), out=tmp_path / "out", gpu="cpu", load_format="random")
    output = ad.LLM(artifact.path).generate([[5, 6, 7]], ad.SamplingParams(max_tokens=3, ignore_eos=True))
    assert len(output[0].outputs[0].token_ids) == 3


def test_compiled_layers_answer_alike(built: Artifact) -> None:
    params = ad.SamplingParams(max_tokens=4, temperature=0)
    plain, compiled = (
        ad.LLM(built.path, capture=capture).generate([[5, 6, 7]], params)[0].outputs[0].token_ids
        for capture in ("none", "compile")
    )
    assert plain == compiled


def test_fuel_bounds_the_rewrites(model_folder: Path, built: Artifact) -> None:
    some = sum(report["matches"] for report in built.history) - 20
    traced = ad.trace(str(model_folder))
    optimized = ad.optimize(traced, gpu="cpu", fuel=some)
    assert sum(report.matches for report in optimized.history) == some


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"load_format": "ranodm"}, "--load-format ranodm: not a choice; did you mean 'random'"),
        ({"load_format": "random", "fuel": -1}, "fuel=-1: how many rewrites may be done; give 0 or more"),
    ],
)
def test_a_mistake_of_a_script_is_told(
    model_folder: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        ad.build(str(model_folder), out=tmp_path / "out", gpu="cpu", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [{"dtype": "bf16"}, {"set": {"passes.fuse_qkv": False}}, {"gpu": "h100"}])
def test_an_artifact_refuses_what_its_build_decided(built: Artifact, option: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"built|artifact"):
        ad.LLM(built.path, **option)  # type: ignore[arg-type]


def test_a_process_of_its_own_answers_alike(built: Artifact) -> None:
    params = ad.SamplingParams(max_tokens=6, temperature=0)
    settings = {"runtime.page_size": 8}
    here, there = (
        ad.LLM(built.path, engine=engine, set=settings).generate([[5, 6, 7], [8]], params)
        for engine in ("inline", "process")
    )
    assert there == here
    with pytest.raises(InputError, match="did you mean 'page_size'"):
        ad.LLM(built.path, engine="process", set={"runtime.page_sise": 8})
    with pytest.raises(InputError, match="engine='proces': not a choice; did you mean 'process'"):
        ad.LLM(built.path, engine="proces")
    with pytest.raises(InputError, match="was built for a CPU; use none or compile"):
        ad.LLM(built.path, capture="cudagraph")

"""GGUF files that keep their bits, against the numbers that transformers reads by the gguf library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.export import load_config, trace_model
from autodeploy.hub import resolve
from autodeploy.job import Job
from autodeploy.pipeline import run_passes
from autodeploy.program import Program, ProgramSpec, cache_specs
from autodeploy.weights import Dequantized, SafetensorsSource, WeightPlan, stored
from autodeploy.weights.checkpoint import plan_weights
from tests.families import REFERENCES, context_of, default_passes, replay
from tests.hub.ggufs import VOCAB_SIZE, write_gguf

pytestmark = pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
LAYER = "model.layers.0"
KEPT = {
    "model.embed_tokens": ("int8", 32),
    "lm_head": ("int8", 16),
    f"{LAYER}.self_attn.q_proj": ("int4", 32),
    f"{LAYER}.self_attn.k_proj": ("int4", 32),
    f"{LAYER}.self_attn.v_proj": ("int8", 16),
    f"{LAYER}.self_attn.o_proj": ("int4", 32),
    f"{LAYER}.mlp.gate_proj": ("int4", 32),
    f"{LAYER}.mlp.up_proj": ("int4", 32),
}
TOKEN_IDS = torch.randint(3, VOCAB_SIZE, (20,), generator=torch.manual_seed(1)).tolist()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTODEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return resolve(str(file), packed=True).folder


@pytest.fixture(scope="module")
def theirs(file: Path) -> Any:
    """The model as transformers reads it, in float32."""
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    return factory.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)


@pytest.fixture(scope="module")
def plan(folder: Path) -> WeightPlan:
    model: Any = trace_model(load_config(folder), torch.float32).model
    return plan_weights(model, SafetensorsSource(folder))


def error(out: Tensor, reference: Tensor) -> float:
    return float((out - reference).norm() / reference.norm())


def test_weights_keep_their_bits_and_groups(plan: WeightPlan) -> None:
    found = {name.removesuffix(".weight"): stored(one) for name, one in plan.items()}
    kept = {name: (one.format, one.scheme.group) for name, one in found.items() if isinstance(one, Dequantized)}
    assert kept == KEPT


def test_the_numbers_are_those_that_transformers_reads(plan: WeightPlan, folder: Path, theirs: Any) -> None:
    source = SafetensorsSource(folder)
    wanted = theirs.state_dict()
    for name, one in plan.items():
        if name in wanted:
            limit = 3e-3 if name.endswith("down_proj.weight") else 1e-6  # a kind without an operator is in bf16
            assert error(one.read(source), wanted[name]) <= limit, name
    assert source.dtype("model.norm.weight") == torch.float32


def test_logits_are_those_of_the_numbers(plan: WeightPlan, folder: Path, theirs: Any) -> None:
    source, config = SafetensorsSource(folder), load_config(folder)
    traced = trace_model(config, torch.float32)
    context = context_of(traced, source, kernels=REFERENCES)
    run_passes(traced.graph_module, default_passes(config), context)
    graph = traced.graph_module.graph
    assert sum("packed_linear" in str(node.target) for node in graph.nodes) == 6  # q, k, v, o, gate and up, head
    spec = ProgramSpec(VOCAB_SIZE, 64, cache_specs(graph))
    tensors = context.weights.read(source)
    program = Program(traced.graph_module, tensors, REFERENCES, torch.device("cpu"), spec)
    theirs.model.layers[0].mlp.down_proj.weight.data = plan[f"{LAYER}.mlp.down_proj.weight"].read(source)
    with torch.no_grad():
        wanted = theirs(torch.tensor([TOKEN_IDS])).logits[0]
    assert error(replay(program, TOKEN_IDS, (12, *[1] * 8)).reshape(wanted.shape), wanted) <= 1e-5


@pytest.mark.parametrize(("quantize", "packed"), [(None, True), ("none", False), ("int8", False)])
def test_a_build_keeps_them_unless_it_is_told_how_to_quantize(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, quantize: str | None, packed: bool
) -> None:
    monkeypatch.setenv("AUTODEPLOY_CACHE", str(folder.parent.parent))
    options = {"gpu": "cpu", "dtype": "fp32", "recipe": "auto", "workload": "balanced", "values": {}}
    job = Job(str(file), **options, weights=True, quantize=quantize)  # type: ignore[arg-type]
    assert (job.files.folder == folder) is packed


def test_the_two_forms_of_a_file_are_kept_apart(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTODEPLOY_CACHE", str(folder.parent.parent))
    plain = resolve(str(file)).folder
    assert plain != folder
    assert resolve(str(file), packed=True).folder == folder
    assert not hasattr(load_config(plain), "quantization_config")
    size, packed = (sum(one.stat().st_size for one in path.glob("*.safetensors")) for path in (plain, folder))
    assert packed < 0.7 * size

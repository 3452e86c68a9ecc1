"""An artifact comes back as it was saved, and stops at nothing in between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

from autodeploy import artifact
from autodeploy.errors import ArtifactError, CheckpointError, InputError, InvariantError
from autodeploy.graph.attributes import set_attribute
from autodeploy.weights import MemorySource, SafetensorsSource, Stored, WeightPlan


def run(gm: GraphModule, weights: dict[str, torch.Tensor], ids: torch.Tensor) -> torch.Tensor:
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            set_attribute(gm, node.target, weights[node.target])
    result: torch.Tensor = gm(ids)[0]
    return result


def test_comes_back_as_it_was_saved(
    tmp_path: Path, save: Any, graph: GraphModule, plan: WeightPlan, source: Any
) -> None:
    save(tmp_path / "out")
    loaded = artifact.load(tmp_path / "out")
    again = loaded.graph_module()
    ids = torch.tensor([1, 5, 9])
    assert torch.equal(run(again, loaded.read_weights(), ids), run(graph, plan.read(source), ids))
    assert [str(node) for node in again.graph.nodes] == [str(node) for node in graph.graph.nodes]
    assert again.code == graph.code
    linear = next(node for node in again.graph.nodes if "backend" in node.meta)
    assert linear.meta == {"backend": "torch", "val_text": "float32[3, 8]"}
    assert loaded.config == {"model_type": "llama"}
    assert loaded.recipe == {"name": "default"}
    assert loaded.history == [{"name": "fuse_qkv", "changes": 1}]
    assert loaded.manifest.versions["torch"] == torch.__version__
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == b"{}"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]


def test_weights_are_mapped_and_ties_share_storage(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "out")
    weights = artifact.load(tmp_path / "out").read_weights()
    assert set(weights) == {"embed.weight", "layers.0.qk.weight", "head.weight"}
    assert weights["head.weight"].data_ptr() == weights["embed.weight"].data_ptr()
    assert str(tmp_path / "out" / "weights-00001.safetensors") in Path("/proc/self/maps").read_text()


def test_the_weights_are_plain_safetensors(tmp_path: Path, save: Any, plan: WeightPlan, source: Any) -> None:
    save(tmp_path / "out")
    file = tmp_path / "out" / "weights-00001.safetensors"
    plain = SafetensorsSource([file])
    assert plain.keys() == ["embed.weight", "layers.0.qk.weight"]
    assert torch.equal(plain.read("layers.0.qk.weight"), plan["layers.0.qk.weight"].read(source))
    assert int.from_bytes(file.read_bytes()[:8], "little") % 64 == 56  # the data starts at a multiple of 64


def test_every_dtype_survives(tmp_path: Path, save: Any) -> None:
    from autodeploy.weights.safetensors_source import DTYPES

    tensors = {f"w{i}": torch.ones(3, 5).to(dtype) for i, dtype in enumerate(DTYPES.values())}
    tensors["scalar"] = torch.tensor(2.5)
    tensors["view"] = torch.randn(6, 4).T
    source = MemorySource(tensors)
    plan = WeightPlan({name: Stored.of(name, source) for name in tensors})
    graph, root = torch.fx.Graph(), torch.nn.Module()
    for name, tensor in tensors.items():
        set_attribute(root, name, tensor)
    graph.output(tuple(graph.get_attr(name) for name in tensors))
    save(tmp_path / "out", graph=GraphModule(root, graph), weights=plan, source=source)
    loaded = artifact.load(tmp_path / "out").read_weights()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert loaded[name].shape == tensor.shape
        assert torch.equal(loaded[name].double(), tensor.double())


def test_many_files(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autodeploy.artifact.writer.MAX_FILE_BYTES", 200)
    save(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("weights-*.safetensors"))) == 2
    assert set(artifact.load(tmp_path / "out").read_weights()) == {"embed.weight", "layers.0.qk.weight", "head.weight"}


def test_several_graphs_share_weights(tmp_path: Path, save: Any, graph: GraphModule) -> None:
    saved = save(tmp_path / "out", graph={"decode": graph, "mixed": graph})
    assert saved.graph_names == ["decode", "mixed"]
    assert saved.graph_module("mixed").code == graph.code
    with pytest.raises(ArtifactError, match=r"no graph 'decod'; did you mean 'decode'\?"):
        saved.graph_module("decod")


def test_replaces_an_artifact_and_nothing_else(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "out", name="first")
    save(tmp_path / "out", name="second")
    assert artifact.load(tmp_path / "out").manifest.name == "second"
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="thesis is not empty and not an artifact"):
        save(other)
    assert (other / "chapter.txt").read_text() == "years of work"
    with pytest.raises(InputError, match="is a file"):
        save(other / "chapter.txt")
    with pytest.raises(InputError, match="cannot be written"):
        save(other / "chapter.txt" / "out")


def test_fills_an_empty_folder_and_makes_parents(tmp_path: Path, save: Any) -> None:
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty")
    save(tmp_path / "a" / "b" / "out")
    assert artifact.load(tmp_path / "empty").manifest.name == "tiny"
    assert artifact.load(tmp_path / "a" / "b" / "out").manifest.name == "tiny"


class Interrupted(MemorySource):
    def read(self, key: str, ranges: Any = None) -> torch.Tensor:
        if key == "k":
            raise KeyboardInterrupt
        return super().read(key, ranges)


def test_an_interruption_leaves_what_was_there(tmp_path: Path, save: Any, source: MemorySource) -> None:
    broken = Interrupted({key: source.read(key) for key in source.keys()})  # noqa: SIM118
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "out", source=broken)
    assert list(tmp_path.iterdir()) == []
    save(tmp_path / "out", name="first")
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "out", name="second", source=broken)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert artifact.load(tmp_path / "out").manifest.name == "first"


def test_a_failed_rename_puts_the_old_one_back(tmp_path: Path, save: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "out", name="first")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.startswith(".out-") and not self.name.endswith("-old"):
            raise OSError(28, os.strerror(28))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(InputError, match="out cannot be written: No space left"):
        save(tmp_path / "out", name="second")
    assert artifact.load(tmp_path / "out").manifest.name == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_weight_that_the_plan_lacks(tmp_path: Path, save: Any, plan: WeightPlan) -> None:
    del plan["layers.0.qk.weight"]
    with pytest.raises(InvariantError, match=r"reads 'layers\.0\.qk\.weight'"):
        save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_the_source_lacks(tmp_path: Path, save: Any) -> None:
    with pytest.raises(CheckpointError, match="no tensor 'embed'"):
        save(tmp_path / "out", source=MemorySource({}))


@pytest.mark.parametrize(
    "name", ["../escape", "a/b", "graph.json", "manifest.json", "model.pkl", "weights-00001.safetensors"]
)
def test_assets_have_plain_free_names(tmp_path: Path, save: Any, name: str) -> None:
    with pytest.raises(InputError, match="cannot be a file of an artifact"):
        save(tmp_path / "out", assets={name: b""})


def test_the_tokenizer_and_no_pickle_are_taken_along(tmp_path: Path) -> None:
    for name in (
        "tokenizer.json",
        "generation_config.json",
        "tokenizer.pkl",
        "model.safetensors",
        "chat_template.jinja",
    ):
        (tmp_path / name).write_bytes(b"")
    assert sorted(artifact.tokenizer_assets(tmp_path)) == [
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
    ]


@pytest.mark.parametrize("target", [torch.add, print, torch.nn.functional.relu])
def test_a_graph_that_calls_python_cannot_be_saved(tmp_path: Path, save: Any, graph: GraphModule, target: Any) -> None:
    node = next(node for node in graph.graph.nodes if node.op == "call_function")
    node.target = target
    with pytest.raises(InvariantError, match="cannot hold"):
        save(tmp_path / "out")

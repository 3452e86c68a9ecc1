"""Crafted and damaged artifacts: each is refused, in one sentence, before anything of it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from autodeploy import artifact
from autodeploy.artifact import Artifact, graph_from_data, graph_to_data
from autodeploy.errors import ArtifactError

BOMB = "__import__('pathlib').Path('/tmp/autodeploy-was-here').touch()"


@pytest.fixture
def saved(tmp_path: Path, save: Any) -> Artifact:
    artifact_: Artifact = save(tmp_path / "out")
    return artifact_


@pytest.mark.parametrize("name", ["graph.json", "weights-00001.safetensors", "tokenizer.json", "recipe.json"])
def test_an_edited_file_is_named(saved: Artifact, name: str) -> None:
    file = saved.path / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{name} is damaged or edited"):
        artifact.load(saved.path).read_weights()


def test_weights_can_be_checked_without_being_read(saved: Artifact) -> None:
    saved.check_weights()
    file = saved.path / "weights-00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    opened = artifact.load(saved.path)
    with pytest.raises(ArtifactError, match=r"weights-00001\.safetensors is damaged or edited"):
        opened.check_weights()


def test_truncated_weights_are_named(saved: Artifact) -> None:
    file = saved.path / "weights-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match=r"weights-00001\.safetensors is damaged: it has \d+ bytes"):
        artifact.load(saved.path)


def test_a_missing_file_is_named(saved: Artifact) -> None:
    (saved.path / "weights-00001.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"weights-00001\.safetensors is missing"):
        artifact.load(saved.path)


@pytest.mark.parametrize("name", ["extra.pkl", "model.bin", "x.PT", "nested/deep.pth"])
def test_a_pickle_is_refused_even_when_listed(saved: Artifact, tamper: Any, name: str) -> None:
    (saved.path / name).parent.mkdir(exist_ok=True)
    tamper(saved.path, name, b"\x80\x04.")
    with pytest.raises(ArtifactError, match="a pickle can run code"):
        artifact.load(saved.path)


def test_an_unlisted_file_is_refused(saved: Artifact) -> None:
    (saved.path / "modeling_tiny.py").write_text(BOMB)
    with pytest.raises(ArtifactError, match=r"modeling_tiny\.py is refused: manifest\.json does not list it"):
        artifact.load(saved.path)


def test_a_link_is_refused(saved: Artifact) -> None:
    (saved.path / "tokenizer.json").unlink()
    (saved.path / "tokenizer.json").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="holds no links"):
        artifact.load(saved.path)


def test_an_engine_needs_permission(saved: Artifact, tamper: Any) -> None:
    tamper(saved.path, "layer.engine", b"engine")
    with pytest.raises(ArtifactError, match="--allow-engines"):
        artifact.load(saved.path)
    assert artifact.load(saved.path, allow_engines=True).manifest.name == "tiny"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "at its text"),
        ('{"format": 2}', "at format"),
        ('{"format": 1, "surprise": 1}', "at name"),
    ],
)
def test_a_manifest_of_another_kind(saved: Artifact, text: str, message: str) -> None:
    (saved.path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        artifact.load(saved.path)


def test_folders_that_are_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a folder"):
        artifact.load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json"):
        artifact.load(tmp_path)


def test_a_tie_to_nothing(saved: Artifact) -> None:
    manifest = json.loads((saved.path / "manifest.json").read_text())
    manifest["ties"] = {"head.weight": "elsewhere"}
    (saved.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="'elsewhere', which is not stored"):
        artifact.load(saved.path).read_weights()


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b'{"graphs": []}', b'{"graphs": {"main": 3}}', b'{"graphs": {"main": []}}']
)
def test_a_graph_file_that_is_none(saved: Artifact, tamper: Any, content: bytes) -> None:
    tamper(saved.path, "graph.json", content)
    with pytest.raises(ArtifactError, match=r"graph\.json"):
        artifact.load(saved.path).graph_module()


WEIGHTS = {name: torch.empty(1) for name in ("embed.weight", "layers.0.qk.weight", "head.weight")}


def first(nodes: list[dict[str, Any]], op: str, target: str = "") -> dict[str, Any]:
    return next(node for node in nodes if node["op"] == op and target in node["target"])


def edit(node: dict[str, Any], **changes: Any) -> None:
    node.update(changes)


MUL, CLAMP, LINEAR = "aten.mul.Tensor", "aten.clamp.default", "autodeploy.linear.default"
ATTACKS: dict[str, tuple[Any, str]] = {
    "an operator of another namespace": (
        lambda nodes: edit(first(nodes, "call_function", MUL), target="inductor.accumulate_grad_.default"),
        "allowed are operators of aten, autodeploy",
    ),
    "an operator that writes a file": (
        lambda nodes: edit(
            first(nodes, "call_function", MUL), target="aten.from_file.default", args=["/tmp/x", True, 9]
        ),
        "touches files",
    ),
    "an operator that saves": (
        lambda nodes: edit(first(nodes, "call_function", MUL), target="aten.save.default"),
        "touches files",
    ),
    "a function of Python": (
        lambda nodes: edit(first(nodes, "call_function", MUL), target="os.system"),
        "is not an operator",
    ),
    "a function of the builtins": (
        lambda nodes: edit(first(nodes, "call_function", MUL), target="builtins.eval.default"),
        "is refused",
    ),
    "an attribute of a namespace": (
        lambda nodes: edit(first(nodes, "call_function", MUL), target="aten.__class__.mro"),
        "does not exist",
    ),
    "an attribute of an operator": (
        lambda nodes: edit(first(nodes, "call_function", MUL), target="aten.mul.__init__"),
        "does not exist",
    ),
    "an overload that does not exist": (
        lambda nodes: edit(first(nodes, "call_function", MUL), target="aten.mul.Tensro"),
        "does not exist",
    ),
    "code in an argument name": (
        lambda nodes: edit(first(nodes, "call_function", CLAMP), kwargs={f"max={BOMB}, min": 1}),
        "has no argument",
    ),
    "a misspelt argument name": (
        lambda nodes: edit(first(nodes, "call_function", CLAMP), kwargs={"maxx": 1}),
        "did you mean 'max'",
    ),
    "too many arguments": (
        lambda nodes: edit(first(nodes, "call_function", CLAMP), args=[1, 2, 3, 4]),
        "gives 4 arguments",
    ),
    "an argument twice": (
        lambda nodes: edit(first(nodes, "call_function", CLAMP), args=[1, 2], kwargs={"min": 1}),
        "twice",
    ),
    "an argument too few": (
        lambda nodes: edit(first(nodes, "call_function", MUL), args=[]),
        "no 'self'",
    ),
    "a function of one argument too many": (
        lambda nodes: edit(first(nodes, "call_function", "getitem"), args=[1, 2, 3]),
        "must have 2 arguments",
    ),
    "code in a node name": (lambda nodes: edit(nodes[0], name=f"x = {BOMB}\n"), "not a valid node name"),
    "a line in a node name": (lambda nodes: edit(nodes[0], name="x\n"), "not a valid node name"),
    "a keyword as a node name": (lambda nodes: edit(nodes[0], name="import"), "not a valid node name"),
    "a builtin as a node name": (lambda nodes: edit(nodes[0], name="print"), "is taken"),
    "a node name twice": (lambda nodes: nodes.insert(1, dict(nodes[0])), "is taken"),
    "code in an input name": (lambda nodes: edit(nodes[0], target=f"x={BOMB}"), "not a valid input name"),
    "code in a weight's name": (
        lambda nodes: edit(first(nodes, "get_attr"), target=f'a"+{BOMB}+"'),
        "reads the weight",
    ),
    "a weight that is not stored": (
        lambda nodes: edit(first(nodes, "get_attr"), target="embed.wieght"),
        "did you mean 'embed.weight'",
    ),
    "a call of a module": (lambda nodes: edit(first(nodes, "call_function", MUL), op="call_module"), "refused"),
    "a call of a method": (lambda nodes: edit(first(nodes, "call_function", MUL), op="call_method"), "refused"),
    "a default of an input": (lambda nodes: edit(nodes[0], args=[1]), "does not take"),
    "a node that comes later": (
        lambda nodes: edit(first(nodes, "call_function", MUL), args=[{"node": "clamp_default"}, 1]),
        "does not exist",
    ),
    "an object": (
        lambda nodes: edit(first(nodes, "call_function", MUL), args=[{"__reduce__": [BOMB]}, 1]),
        "not of a known kind",
    ),
    "a dtype that is a function": (
        lambda nodes: edit(first(nodes, "call_function", MUL), args=[{"dtype": "load"}, 1]),
        "does not exist",
    ),
    "a number that is code": (
        lambda nodes: edit(first(nodes, "call_function", MUL), args=[{"float": BOMB}, 1]),
        "does not exist",
    ),
    "a device that is none": (
        lambda nodes: edit(first(nodes, "call_function", MUL), args=[{"device": "gpu:x"}, 1]),
        "names no device",
    ),
    "a field that is not known": (lambda nodes: edit(nodes[0], type="x"), "not valid at 'type'"),
    "a name that is not text": (lambda nodes: edit(nodes[0], name=3), "not valid at 'name'"),
    "no output": (lambda nodes: nodes.pop(), "end in its one output"),
    "two outputs": (lambda nodes: nodes.append({**nodes[-1], "name": "again"}), "end in its one output"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_crafted_graph_is_refused(graph: Any, attack: str) -> None:
    nodes = json.loads(json.dumps(graph_to_data(graph)))
    change, message = ATTACKS[attack]
    change(nodes)
    with pytest.raises(ArtifactError, match=message) as caught:
        graph_from_data(nodes, WEIGHTS)
    assert "\n" not in str(caught.value)
    assert not Path("/tmp/autodeploy-was-here").exists()


def test_code_in_the_name_of_a_stored_weight(graph: Any) -> None:
    nodes = graph_to_data(graph)
    name = f'a"+{BOMB}+"'
    first(nodes, "get_attr")["target"] = name
    with pytest.raises(ArtifactError, match="not the name of a weight"):
        graph_from_data(nodes, WEIGHTS | {name: torch.empty(1)})


@pytest.mark.parametrize("name", ["training", "forward", "__class__", "embed.weight.data", "_parameters.x"])
def test_a_weight_named_like_an_attribute(graph: Any, name: str) -> None:
    nodes = graph_to_data(graph)
    first(nodes, "get_attr", "head")["target"] = name
    with pytest.raises(ArtifactError, match="not the name of a weight"):
        graph_from_data(nodes, WEIGHTS | {name: torch.empty(1)})


def test_an_operator_that_no_plugin_declares(graph: Any) -> None:
    nodes = graph_to_data(graph)
    first(nodes, "call_function", MUL)["target"] = "prims.mul.default"
    with pytest.raises(ArtifactError, match="refused: allowed are operators of aten, autodeploy, and of installed"):
        graph_from_data(nodes, WEIGHTS)


def test_an_operator_of_a_plugin_that_is_not_installed(graph: Any) -> None:
    nodes = graph_to_data(graph)
    first(nodes, "call_function", MUL)["target"] = "mine.mul.default"
    with pytest.raises(ArtifactError, match=r"needs the plugin 'mine' of my-fusions 1\.0, and it is not installed"):
        graph_from_data(nodes, WEIGHTS, {"mine": "my-fusions 1.0"})

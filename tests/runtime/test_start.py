"""A worker is started before anything slow is imported, and imports no more than serving takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autodeploy.artifact.manifest import MANIFEST
from autodeploy.runtime.target import is_for_gpu

SERVING = """
import torch, autodeploy.loading
from autodeploy.discovery import kernel_table
kernel_table(torch.device("cpu"))
"""


def imported_by(statements: str) -> set[str]:
    script = f"{statements}\nimport sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_a_worker_starts_before_torch_is_imported() -> None:
    assert not {"torch", "transformers", "networkx"} & imported_by("import autodeploy.llm, autodeploy.worker")


def test_reading_a_graph_takes_nothing_slow(tmp_path: Path) -> None:
    nodes = [
        {"op": "placeholder", "name": "x", "target": "x"},
        {"op": "get_attr", "name": "w", "target": "w"},
        {"op": "output", "name": "output", "target": "output", "args": [{"node": "w"}]},
    ]
    (tmp_path / "graph.json").write_text(json.dumps(nodes))
    reading = f"""
import json, torch
from autodeploy.artifact.graph_io import graph_from_data
graph_from_data(json.load(open({str(tmp_path / "graph.json")!r})), {{"w": torch.ones(2, 3, device="meta")}})
"""
    assert not {"sympy", "torch._dynamo"} & imported_by(reading)


def test_serving_takes_neither_transformers_nor_the_compiler() -> None:
    assert not {"transformers", "torch._dynamo", "sympy"} & imported_by(SERVING)


def test_serving_takes_no_passes_where_no_plugin_builds_on_them() -> None:
    passes = {"autodeploy.passes", "autodeploy.patterns", "networkx"}
    alone = """
from autodeploy import discovery
ours = [point for point in discovery.entry_points(group=discovery.GROUP) if point.name == "builtin"]
discovery.entry_points = lambda group: ours
"""
    assert not passes & imported_by(alone + SERVING)


@pytest.mark.parametrize(
    ("manifest", "found"),
    [('{"devices": ["cuda"]}', True), ('{"devices": ["cpu"]}', False), ("{", False), ("[]", False), ("{}", False)],
)
def test_an_artifact_for_a_gpu_is_recognized_at_once(tmp_path: Path, manifest: str, found: bool) -> None:
    (tmp_path / MANIFEST).write_text(manifest)
    assert is_for_gpu(tmp_path) is found


def test_a_folder_without_manifest_is_not_for_a_gpu(tmp_path: Path) -> None:
    assert not is_for_gpu(tmp_path)

"""Saving and loading hold one tensor at a time, whatever the model's size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys, threading, time
from pathlib import Path
import torch
from torch.fx import Graph, GraphModule
from autodeploy import artifact
from autodeploy.graph.attributes import set_attribute
from autodeploy.weights import SafetensorsSource, Stored, WeightPlan, Cast

folder = Path(sys.argv[1])

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

peak, running = 0, True
def watch():
    global peak
    while running:
        peak = max(peak, anonymous())
        time.sleep(0.001)

source = SafetensorsSource(sorted((folder / "model").glob("*.safetensors")))
keys = source.keys()
plan = WeightPlan({key: Cast(Stored.of(key, source), torch.bfloat16) for key in keys})
for first, second in zip(keys[::2], keys[1::2]):
    plan.concat([first, second], 0, f"{first}.fused")
graph, root = Graph(), torch.nn.Module()
fused = [name for name in plan if name.endswith(".fused")]
for name in fused:
    set_attribute(root, name, torch.empty(1, device="meta"))
graph.output(tuple(graph.get_attr(name) for name in fused))
gm = GraphModule(root, graph)
before = peak = anonymous()
thread = threading.Thread(target=watch)
thread.start()
artifact.save(
    folder / "out", name="big", graph=gm, weights=plan, source=source, config={}, dtype="bfloat16", devices=["cpu"]
)
saving, peak = peak - before, 0
weights = artifact.load(folder / "out").read_weights()
total = sum(float(weight[0, 0]) for weight in weights.values())
running = False
thread.join()
nbytes = [weight.nbytes for weight in weights.values()]
sizes = {"largest": max(nbytes), "all": sum(nbytes)}
print(json.dumps({"saving": saving, "loading": peak - before, "total": total} | sizes))
"""


def write_checkpoint(folder: Path, num_tensors: int, rows: int) -> None:
    """A float32 checkpoint of `num_tensors` files, `rows` KiB each, made in chunks."""
    folder.mkdir()
    size = rows * 1024
    entry = {"dtype": "F32", "shape": [rows, 256], "data_offsets": [0, size]}
    for index in range(num_tensors):
        header = json.dumps({f"w{index:03d}": entry}).encode()
        with (folder / f"{index:03d}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for start in range(0, size, 2**20):
                file.write(bytes(min(2**20, size - start)))


def measure(folder: Path, num_tensors: int, rows: int) -> dict[str, float]:
    write_checkpoint(folder / "model", num_tensors, rows)
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ)).stdout
    result: dict[str, float] = json.loads(output)
    return result


def check(result: dict[str, float], margin: float) -> None:
    assert result["total"] == 0
    assert result["saving"] <= result["largest"] + margin
    assert result["loading"] <= margin


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_one_tensor(tmp_path: Path) -> None:
    result = measure(tmp_path, num_tensors=12, rows=32 * 1024)  # 384 MiB, 32 MiB a fused tensor in bfloat16
    assert result["all"] == 6 * result["largest"]
    check(result, margin=48e6)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_of_four_gigabytes(tmp_path: Path) -> None:
    result = measure(tmp_path, num_tensors=32, rows=256 * 1024)  # 8 GiB in float32, 4 GiB in bfloat16
    assert result["all"] == 4 * 2**30
    check(result, margin=200e6)

"""Weights on their way to a GPU are those of the files, and no damage goes unnoticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from autodeploy import artifact
from autodeploy.artifact import Artifact
from autodeploy.artifact.weights import BLOCK_BYTES, stream_weights
from autodeploy.errors import ArtifactError
from autodeploy.graph.attributes import set_attribute
from autodeploy.weights import MemorySource, Stored, WeightPlan

FILE = "weights-00001.safetensors"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture
def saved(tmp_path: Path, save: Any) -> Artifact:
    """More than one block, in several files, in which not all weights start where kernels could read them."""
    sizes = {"large": BLOCK_BYTES // 4 + 3, "odd": 5, "small": 7}
    tensors = {name: torch.randn(size) for name, size in sizes.items()}
    tensors |= {f"{name}8": tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
    source = MemorySource(tensors)
    graph, root = torch.fx.Graph(), torch.nn.Module()
    for name, tensor in tensors.items():
        set_attribute(root, name, tensor)
    graph.output(tuple(graph.get_attr(name) for name in tensors))
    plan = WeightPlan({name: Stored.of(name, source) for name in tensors})
    result: Artifact = save(tmp_path / "out", graph=torch.fx.GraphModule(root, graph), weights=plan, source=source)
    return result


def damage(saved: Artifact, at: int) -> None:
    file = saved.path / FILE
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("found", [b"[0,33554444]", b'"F32"', b'{"', b"shape"])
def test_a_header_that_describes_something_else_is_named(saved: Artifact, found: bytes) -> None:
    file = saved.path / FILE
    damage(saved, file.read_bytes().index(found) + len(found) - 2)
    files = {file: saved.manifest.files[FILE]}
    with pytest.raises(ArtifactError, match=rf"{FILE} is damaged or edited: its header does not describe it"):
        stream_weights(files, torch.device("cpu"))


@pytest.mark.gpu
@needs_gpu
def test_streamed_weights_are_those_of_the_files(saved: Artifact) -> None:
    on_host, reading = saved.read_weights(), saved.start_reading(torch.device("cuda"))
    reading.wait()
    assert on_host.keys() == reading.tensors.keys()
    for name, tensor in reading.tensors.items():
        assert tensor.data_ptr() % 16 == 0
        assert torch.equal(tensor.cpu().view(torch.uint8), on_host[name].contiguous().view(torch.uint8))


@pytest.mark.gpu
@needs_gpu
def test_damage_on_the_way_to_a_gpu_is_named(saved: Artifact) -> None:
    damage(saved, -1)
    reading = artifact.load(saved.path).start_reading(torch.device("cuda"))
    with pytest.raises(ArtifactError, match=f"{FILE} is damaged or edited"):
        reading.wait()

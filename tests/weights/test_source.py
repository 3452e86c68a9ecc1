"""Checkpoints on disk: what is read, and what a damaged one says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autodeploy.errors import CheckpointError
from autodeploy.weights import SafetensorsSource

INDEX = "model.safetensors.index.json"


def write_sharded(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {"a.weight": torch.randn(4, 3), "b.weight": torch.randn(5).bfloat16()}
    save_file({"a.weight": tensors["a.weight"]}, folder / "one.safetensors")
    save_file({"b.weight": tensors["b.weight"]}, folder / "two.safetensors")
    weight_map = {"a.weight": "one.safetensors", "b.weight": "two.safetensors"}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tensors


def test_reads_a_sharded_folder(tmp_path: Path) -> None:
    tensors = write_sharded(tmp_path)
    source = SafetensorsSource(tmp_path)
    assert source.keys() == ["a.weight", "b.weight"]
    assert source.shape("a.weight") == (4, 3)
    assert source.dtype("b.weight") == torch.bfloat16
    assert torch.equal(source.read("b.weight"), tensors["b.weight"])
    assert torch.equal(source.read("a.weight", ((1, 3), None)), tensors["a.weight"][1:3])


def test_reads_single_files_and_lists_of_files(tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "model.safetensors")
    save_file({"y": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert SafetensorsSource(tmp_path).keys() == ["x"]
    assert SafetensorsSource(sorted(tmp_path.glob("*.safetensors"))).keys() == ["x", "y"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_row_of_a_large_file_touches_only_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(4096, 4096)}, file)  # 64 MiB
    source = SafetensorsSource(tmp_path)
    assert float(source.read("x", ((2000, 2002), None)).sum()) == 0
    assert resident_kib(file) < 4096


def resident_kib(file: Path) -> int:
    mappings = Path("/proc/self/smaps").read_text().split(f"{file}\n")[1:]
    assert mappings
    sizes = [re.search(r"Rss:\s+(\d+) kB", mapping) for mapping in mappings]
    return sum(int(size[1]) for size in sizes if size)


def test_nothing_is_held_of_what_was_read(tmp_path: Path) -> None:
    save_file({f"x{i}": torch.zeros(1024, 1024) for i in range(8)}, tmp_path / "model.safetensors")
    source = SafetensorsSource(tmp_path)
    before = anonymous_kib()
    total = sum(float(source.read(key).sum()) for key in source.keys())  # noqa: SIM118
    assert total == 0
    assert anonymous_kib() - before < 4096  # of 32 MiB read


def anonymous_kib() -> int:
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    with pytest.raises(CheckpointError, match=r"no tensor 'a\.weigth'; did you mean 'a\.weight'\?"):
        SafetensorsSource(tmp_path).read("a.weigth")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    file = tmp_path / "two.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"two\.safetensors is damaged"):
        SafetensorsSource(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_a_file_of_another_kind_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or not safetensors"):
        SafetensorsSource(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    (tmp_path / "one.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"one\.safetensors is missing"):
        SafetensorsSource(tmp_path)


def test_an_index_that_disagrees_with_its_files(tmp_path: Path) -> None:
    write_sharded(tmp_path)
    weight_map = {"a.weight": "two.safetensors", "b.weight": "two.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"two\.safetensors does not hold 'a\.weight'"):
        SafetensorsSource(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="is not an index"):
        SafetensorsSource(tmp_path)


def test_an_index_may_not_leave_its_folder(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        SafetensorsSource(tmp_path)


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(CheckpointError, match=r"pickle \(pytorch_model\.bin\), which is never loaded.*save_pretrained"):
        SafetensorsSource(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        SafetensorsSource(tmp_path)

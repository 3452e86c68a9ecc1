"""A checkpoint's safetensors files, one weight in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from autodeploy.artifact.writer import MAX_FILE_BYTES, header
from autodeploy.weights.safetensors_source import INDEX


@dataclass(frozen=True)
class Unit:
    """Tensors that are made together: their names, shapes and dtypes on the meta device, and what gives them."""

    tensors: Mapping[str, Tensor]
    read: Callable[[], Mapping[str, Tensor]]

    @property
    def nbytes(self) -> int:
        """The size of all of them."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def write_files(folder: Path, units: Sequence[Unit], wrote: Callable[[], None] = lambda: None) -> int:
    """Write `model.safetensors`, or numbered files and their index; returns the bytes of all tensors.

    `wrote` is told of each unit, of which one at a time is in memory.
    """
    shards = _split(units)
    names = [_name(number, len(shards)) for number in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        _write_file(folder / name, shard, wrote)
    total = sum(unit.nbytes for unit in units)
    if len(shards) > 1:
        places = {
            key: name for name, shard in zip(names, shards, strict=True) for unit in shard for key in unit.tensors
        }
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=1))
    return total


def _split(units: Sequence[Unit]) -> list[list[Unit]]:
    shards: list[list[Unit]] = [[]]
    room = MAX_FILE_BYTES
    for unit in units:
        if unit.nbytes > room and shards[-1]:
            shards.append([])
            room = MAX_FILE_BYTES
        shards[-1].append(unit)
        room -= unit.nbytes
    return shards


def _name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _write_file(path: Path, units: Sequence[Unit], wrote: Callable[[], None]) -> None:
    """Give each tensor its place, the widest elements first so that all are aligned, then fill unit after unit."""
    declared = {name: tensor for unit in units for name, tensor in unit.tensors.items()}
    ordered = dict(sorted(declared.items(), key=lambda item: -item[1].dtype.itemsize))
    begin = header(ordered)
    places, offset = {}, len(begin)
    for name, tensor in ordered.items():
        places[name] = offset
        offset += tensor.nbytes
    with path.open("xb") as file:
        file.write(begin)
        for unit in units:
            _fill(file, unit, places)
            wrote()


def _fill(file: BinaryIO, unit: Unit, places: Mapping[str, int]) -> None:
    for name, tensor in unit.read().items():
        file.seek(places[name])
        file.write(_bytes(tensor, unit.tensors[name]))


def _bytes(tensor: Tensor, declared: Tensor) -> memoryview:
    assert (tensor.shape, tensor.dtype) == (declared.shape, declared.dtype), "its file's header says so"
    data: memoryview = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return data

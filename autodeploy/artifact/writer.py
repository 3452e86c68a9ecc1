"""Weights to safetensors, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from autodeploy.artifact.manifest import FileEntry
from autodeploy.weights.expression import Expression
from autodeploy.weights.plan import WeightPlan
from autodeploy.weights.quantized import PartReader, Quantized
from autodeploy.weights.safetensors_source import DTYPES
from autodeploy.weights.source import TensorSource

MAX_FILE_BYTES = 2 * 1024**3  # each file is read by a thread of its own
ALIGNMENT = 64
BLOCK_BYTES = 16 * 1024**2


class HashedFile:
    """A file being written, whose hash and size are known at the end without reading it again.

    Hashing takes as long as writing, so that a thread does it meanwhile.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = sha256()
        self._hasher = ThreadPoolExecutor(1)
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        hashed = self._hasher.submit(self._hash.update, data)
        self._file.write(data)
        self._size += len(data)
        hashed.result()

    def entry(self) -> FileEntry:
        """What the manifest says about the file, which is complete."""
        self._hasher.shutdown()
        return FileEntry(size=self._size, sha256=self._hash.hexdigest())


def write_bytes(path: Path, blocks: Iterable[bytes | memoryview]) -> FileEntry:
    """Write `blocks` to a new file, and give its manifest entry."""
    with path.open("xb") as opened:
        file = HashedFile(opened)
        for block in blocks:
            file.write(block)
    return file.entry()


def write_weights(folder: Path, plan: WeightPlan, source: TensorSource) -> dict[str, FileEntry]:
    """Write every weight of `plan` once into `weights-NNNNN.safetensors` files, and give their manifest entries.

    Tied weights are written under the first of their names. Each tensor is read, written and dropped, so that peak
    host memory is the largest of them.
    """
    units = _units({name: plan[name] for name in dict.fromkeys(plan.owners().values())})
    reader = PartReader(source)
    entries = {}
    for number, group in enumerate(_split(units), start=1):
        name = f"weights-{number:05d}.safetensors"
        entries[name] = _write_file(folder / name, group, reader)
    return entries


Weights = Mapping[str, Expression]


def _units(weights: Weights) -> list[Weights]:
    """The weights in an order in which each starts at a multiple of its own width: the widest first.

    Parts of one quantized weight are computed together. They stay so, before all others, where each ends at a multiple
    of `ALIGNMENT`.
    """
    together: dict[object, dict[str, Expression]] = {}
    for name, one in _widest_first(weights).items():
        if isinstance(one, Quantized):
            together.setdefault((one.x, one.scheme), {})[name] = one
    even = [unit for unit in together.values() if not any(one.nbytes % ALIGNMENT for one in unit.values())]
    placed = {name for unit in even for name in unit}
    rest = {name: one for name, one in weights.items() if name not in placed}
    return [*even, *({name: one} for name, one in _widest_first(rest).items())]


def _widest_first(weights: Weights) -> Weights:
    return dict(sorted(weights.items(), key=lambda item: -item[1].dtype.itemsize))


def _split(units: Sequence[Weights]) -> list[Weights]:
    groups: list[dict[str, Expression]] = []
    room = 0
    for unit in units:
        size = sum(expression.nbytes for expression in unit.values())
        if not groups or size > room:
            groups.append({})
            room = MAX_FILE_BYTES
        groups[-1].update(unit)
        room -= size
    return list(groups)


def _write_file(path: Path, weights: Weights, reader: PartReader) -> FileEntry:
    with path.open("xb") as opened:
        file = HashedFile(opened)
        file.write(header(weights))
        for expression in weights.values():
            _write_tensor(file, reader.read(expression))
    return file.entry()


def header(weights: Mapping[str, Expression | Tensor]) -> bytes:
    """What stands before the data of a safetensors file that holds `weights` in this order, one after the other."""
    dtype_names = {dtype: name for name, dtype in DTYPES.items()}
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, expression in weights.items():
        end = offset + expression.nbytes
        table[name] = {
            "dtype": dtype_names[expression.dtype],
            "shape": list(expression.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(file: HashedFile, tensor: Tensor) -> None:
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
    for start in range(0, len(data), BLOCK_BYTES):
        file.write(data[start : start + BLOCK_BYTES])

"""Weights to safetensors, one tensor in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from autodeploy.artifact.manifest import FileEntry
from autodeploy.weights.expression import Expression
from autodeploy.weights.plan import WeightPlan
from autodeploy.weights.source import DTYPES, TensorSource

MAX_FILE_BYTES = 4 * 1024**3
ALIGNMENT = 64
BLOCK_BYTES = 16 * 1024**2


class HashedFile:
    """A file being written, whose hash and size are known at the end without reading it again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = sha256()
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)

    def entry(self) -> FileEntry:
        """What the manifest says about the file."""
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
    owners = dict.fromkeys(plan.owners().values())
    # The widest dtypes come first, so that every tensor starts at a multiple of its own width.
    names = sorted(owners, key=lambda name: -plan[name].dtype.itemsize)
    entries = {}
    for number, group in enumerate(_split(names, plan), start=1):
        name = f"weights-{number:05d}.safetensors"
        entries[name] = _write_file(folder / name, {name: plan[name] for name in group}, source)
    return entries


def _split(names: Sequence[str], plan: Mapping[str, Expression]) -> list[list[str]]:
    groups: list[list[str]] = []
    room = 0
    for name in names:
        if not groups or plan[name].nbytes > room:
            groups.append([])
            room = MAX_FILE_BYTES
        groups[-1].append(name)
        room -= plan[name].nbytes
    return groups


def _write_file(path: Path, weights: Mapping[str, Expression], source: TensorSource) -> FileEntry:
    with path.open("xb") as opened:
        file = HashedFile(opened)
        file.write(_header(weights))
        for expression in weights.values():
            _write_tensor(file, expression.read(source))
    return file.entry()


def _header(weights: Mapping[str, Expression]) -> bytes:
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

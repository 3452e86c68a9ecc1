"""Tensors of a checkpoint on disk, in safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import override

from autodeploy.errors import CheckpointError, nearest
from autodeploy.weights.source import Ranges, TensorSource, select, unknown

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""The names that safetensors gives to dtypes."""


class SafetensorsSource(TensorSource):
    """A checkpoint in safetensors: a folder (with or without an index), or a list of files.

    Files are memory-mapped, so that reading a range touches only its bytes and nothing is held after a tensor is
    dropped. Raises CheckpointError for a folder without safetensors, and for a missing or damaged file.
    """

    def __init__(self, location: Path | Iterable[Path]) -> None:
        files = find_files(location) if isinstance(location, Path) else list(location)
        self._handles = {file: _open(file) for file in files}
        self._file_of = {key: file for file, handle in self._handles.items() for key in handle.keys()}  # noqa: SIM118
        if isinstance(location, Path) and (location / INDEX).is_file():
            self._check_index(location)

    @override
    def keys(self) -> list[str]:
        return sorted(self._file_of)

    @override
    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._handle(key).get_slice(key).get_shape())

    @override
    def dtype(self, key: str) -> torch.dtype:
        name = self._handle(key).get_slice(key).get_dtype()
        if name not in DTYPES:
            raise CheckpointError(f"{self._file_of[key]}: {key} has dtype {name}; {nearest(name, DTYPES)}")
        return DTYPES[name]

    @override
    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        handle = self._handle(key)
        # A mapped tensor costs only the pages that are touched, so narrowing the whole is reading the part.
        tensor: Tensor = handle.get_tensor(key)
        return select(tensor, ranges)

    @override
    def where(self, key: str) -> str:
        return str(self._file_of.get(key, super().where(key)))

    def _handle(self, key: str) -> Any:
        if key not in self._file_of:
            raise unknown(key, self._file_of)
        return self._handles[self._file_of[key]]

    def _check_index(self, folder: Path) -> None:
        for key, name in _weight_map(folder / INDEX).items():
            if self._file_of.get(key) != folder / name:
                raise CheckpointError(f"{folder / name} does not hold {key!r}, which {INDEX} says it does")


def find_files(folder: Path) -> list[Path]:
    """Name the safetensors files of a checkpoint folder, sorted; CheckpointError when there are none."""
    if (folder / INDEX).is_file():
        files = sorted({folder / name for name in _weight_map(folder / INDEX).values()})
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        files = sorted(folder.glob("*.safetensors"))
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; {INDEX} names it, so download the folder again")
    if not files:
        raise CheckpointError(_no_files(folder))
    return files


def _no_files(folder: Path) -> str:
    pickles = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLES)
    if pickles:
        return (
            f"{folder} holds its weights as a pickle ({pickles[0]}), which is never loaded because it can run code; "
            "convert it to model.safetensors with save_pretrained() of transformers"
        )
    return f"{folder} holds no weights: expected model.safetensors or {INDEX}"


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        pairs = {str(key): str(name) for key, name in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors files: {error}") from error
    outside = next((name for name in pairs.values() if Path(name).name != name), None)
    if outside is not None:
        raise CheckpointError(f"{index} names a file outside its folder: {outside!r}")
    return pairs


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} does not exist") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or not safetensors ({error}); download it again") from error

"""Where tensors come from: a checkpoint on disk, a seed, or memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from typing_extensions import override

from autodeploy.errors import CheckpointError, nearest

Ranges = tuple[tuple[int, int] | None, ...]
"""For each dimension the half-open range to read, or None for all of it."""

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


class TensorSource(Protocol):
    """Named tensors that can be read whole or in ranges."""

    def keys(self) -> list[str]:
        """Every name, sorted."""

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of `key`, without reading it; CheckpointError when there is no such key."""

    def dtype(self, key: str) -> torch.dtype:
        """The dtype of `key`, without reading it; CheckpointError when there is no such key."""

    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        """Give `key`, or the part of it inside `ranges`. It may be a view of mapped memory: do not write to it."""

    def where(self, key: str) -> str:
        """What holds `key`, for messages: a file where there is one."""
        return "the checkpoint"


def select(tensor: Tensor, ranges: Ranges | None) -> Tensor:
    """Narrow `tensor` to `ranges`, as a view."""
    if ranges is None:
        return tensor
    return tensor[tuple(slice(None) if r is None else slice(*r) for r in ranges)]


class MemorySource(TensorSource):
    """Tensors that are already in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    @override
    def keys(self) -> list[str]:
        return sorted(self._tensors)

    @override
    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensor(key).shape)

    @override
    def dtype(self, key: str) -> torch.dtype:
        return self._tensor(key).dtype

    @override
    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        return select(self._tensor(key), ranges)

    def _tensor(self, key: str) -> Tensor:
        if key not in self._tensors:
            raise _unknown(key, self._tensors)
        return self._tensors[key]


class RandomSource(TensorSource):
    """Tensors drawn from N(0, 0.02) by a seed and their name; integers and booleans are zero.

    They are drawn on a GPU where there is one, which has numbers of its own: billions of them take a CPU minutes.
    `tensors` gives shapes and dtypes (meta tensors do). A range of a tensor equals that range of the whole.
    """

    def __init__(self, tensors: Mapping[str, Tensor], seed: int = 0) -> None:
        self._tensors = {key: tensor.to("meta") for key, tensor in tensors.items()}
        self._seed = seed

    @classmethod
    def of(cls, model: nn.Module, seed: int = 0) -> RandomSource:
        """A checkpoint for `model`, under the model's own names, that holds tied weights once."""
        tied = getattr(model, "all_tied_weights_keys", ())
        return cls({name: tensor for name, tensor in model.state_dict().items() if name not in tied}, seed)

    @override
    def keys(self) -> list[str]:
        return sorted(self._tensors)

    @override
    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensor(key).shape)

    @override
    def dtype(self, key: str) -> torch.dtype:
        return self._tensor(key).dtype

    @override
    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        tensor = self._tensor(key)
        if not tensor.dtype.is_floating_point:
            return select(torch.zeros_like(tensor, device="cpu"), ranges)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = torch.Generator(device).manual_seed(self._seed + (crc32(key.encode()) << 32))
        draw = torch.empty(tensor.shape, dtype=_drawable(tensor.dtype), device=device)
        return select(draw.normal_(0.0, 0.02, generator=generator), ranges).to("cpu", tensor.dtype)

    def _tensor(self, key: str) -> Tensor:
        if key not in self._tensors:
            raise _unknown(key, self._tensors)
        return self._tensors[key]


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
            raise _unknown(key, self._file_of)
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


def _unknown(key: str, keys: Iterable[str]) -> CheckpointError:
    return CheckpointError(f"the checkpoint holds no tensor {key!r}; {closest(key, keys)}")


def closest(key: str, keys: Iterable[str]) -> str:
    """`nearest`, but quiet about a checkpoint's thousands of keys when none is close."""
    hint = nearest(key, keys)
    return hint if len(hint) < 200 else "no key of the checkpoint is close to it"


def _drawable(dtype: torch.dtype) -> torch.dtype:
    """The dtype to draw in: PyTorch has no normal numbers in 8 bits."""
    return dtype if dtype.itemsize > 1 else torch.float32

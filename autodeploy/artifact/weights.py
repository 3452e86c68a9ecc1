"""An artifact's weight files: mapped on the CPU, streamed to a GPU; their bytes are checked either way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autodeploy.artifact.manifest import MANIFEST, FileEntry
from autodeploy.errors import ArtifactError
from autodeploy.weights.safetensors_source import DTYPES, SafetensorsSource

BLOCK_BYTES = 32 * 2**20
ALIGNMENT = 16  # bytes: what vector loads of kernels ask for

Files = Mapping[Path, FileEntry]
Declared = Mapping[str, Any]
"""What a safetensors file says of a tensor."""


def check_files(files: Files) -> None:
    """Raise ArtifactError for a file whose content is not what the manifest says; the files are read side by side."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(_check_file, files.items()))


def map_weights(files: Files) -> dict[str, Tensor]:
    """Every weight as a view of its mapped file, whose content has been checked."""
    check_files(files)
    source = SafetensorsSource(files)
    return {key: source.read(key) for key in source.keys()}  # noqa: SIM118 (it is not a mapping)


class Reading:
    """Weights that may still be on their way: `tensors` have their places at once, and their contents after `wait`."""

    def __init__(self, tensors: dict[str, Tensor], parts: Sequence[Future[None]] = ()) -> None:
        self.tensors = tensors
        self._parts = parts

    def wait(self) -> None:
        """Wait until every weight is there; ArtifactError for a file that is not what the manifest says."""
        for part in self._parts:
            part.result()


def stream_weights(files: Files, device: torch.device) -> Reading:
    """Every weight on its way to a GPU.

    Each file is read by a thread of its own through two pinned blocks, so that reading, hashing and copying overlap;
    its weights are views of one allocation. Raises ArtifactError for a header that does not describe its file.
    """
    tensors: dict[str, Tensor] = {}
    parts = []
    pool = ThreadPoolExecutor(max(1, len(files)))
    for file, entry in files.items():
        header = _header(file)
        data = torch.empty(entry.size - len(header), dtype=torch.uint8, device=device)
        places = _places(file, header, data)
        tensors |= {name: tensor for name, (tensor, _) in places.items()}
        parts.append(pool.submit(_fill, file, entry, data, places.values()))
    pool.shutdown(wait=False)
    return Reading(tensors, parts)


def describe_weights(files: Files) -> dict[str, Tensor]:
    """Every weight on the meta device: its shape and dtype, as its file declares them."""
    source = SafetensorsSource(files)
    return {
        key: torch.empty(source.shape(key), dtype=source.dtype(key), device="meta")
        for key in source.keys()  # noqa: SIM118 (it is not a mapping)
    }


def _check_file(item: tuple[Path, FileEntry]) -> None:
    file, entry = item
    with file.open("rb") as opened:
        _compare(file, hashlib.file_digest(opened, "sha256").hexdigest(), entry)


def _compare(file: Path, digest: str, entry: FileEntry) -> None:
    if digest != entry.sha256:
        raise ArtifactError(f"{file} is damaged or edited: its hash is not the one in {MANIFEST}")


def _header(file: Path) -> bytes:
    """What stands before the data of a safetensors file, its length first."""
    with file.open("rb") as opened:
        prefix = opened.read(8)
        return prefix + opened.read(int.from_bytes(prefix, "little"))


def _places(file: Path, header: bytes, data: Tensor) -> dict[str, tuple[Tensor, Declared]]:
    """Where the weights of a file will be, before its hash is known to be right."""
    try:
        declared = {name: one for name, one in json.loads(header[8:]).items() if name != "__metadata__"}
        return {name: (_place(data, one), one) for name, one in declared.items()}
    except (ValueError, AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"{file} is damaged or edited: its header does not describe it") from error


def _fill(file: Path, entry: FileEntry, data: Tensor, weights: Iterable[tuple[Tensor, Declared]]) -> None:
    """Read a file into `data`, and from there what could not be a view of it."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as opened:
        digest.update(opened.read(entry.size - len(data)))
        with torch.cuda.device(data.device), torch.cuda.stream(torch.cuda.Stream(data.device)):  # type: ignore[no-untyped-call]
            start = 0
            for block in _pinned_blocks(opened, digest.update):
                data[start : start + len(block)].copy_(block, non_blocking=True)
                start += len(block)
            for tensor, declared in weights:
                if not _is_aligned(declared):
                    tensor.copy_(_typed(_bytes(data, declared).clone(), declared))
            torch.cuda.current_stream().synchronize()
    _compare(file, digest.hexdigest(), entry)


def _pinned_blocks(opened: FileIO, see: Callable[[memoryview], object]) -> Iterator[Tensor]:
    """What is left of a file, a block at a time; a block is reused once the copy queued behind it has been made."""
    blocks = [torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    copied = [torch.cuda.Event() for _ in blocks]  # type: ignore[no-untyped-call]
    for block, event in cycle(zip(blocks, copied, strict=True)):
        event.synchronize()
        view = block.numpy().data
        size = opened.readinto(view)
        if not size:
            return
        see(view[:size])
        yield block[:size]
        event.record()


def _place(data: Tensor, declared: Declared) -> Tensor:
    """Where a weight will be: within the bytes of its file, or beside them where kernels could not read it there."""
    own = _bytes(data, declared)
    return _typed(own if _is_aligned(declared) else torch.empty_like(own), declared)


def _is_aligned(declared: Declared) -> bool:
    start: int = declared["data_offsets"][0]
    return start % ALIGNMENT == 0


def _bytes(data: Tensor, declared: Declared) -> Tensor:
    start, end = declared["data_offsets"]
    return data[start:end]


def _typed(part: Tensor, declared: Declared) -> Tensor:
    return part.view(DTYPES[declared["dtype"]]).view(declared["shape"])

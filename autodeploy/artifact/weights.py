"""An artifact's weight files: mapped on the CPU, streamed to a GPU; their bytes are checked either way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autodeploy.artifact.manifest import MANIFEST, FileEntry
from autodeploy.errors import ArtifactError
from autodeploy.weights.source import DTYPES, SafetensorsSource

BLOCK_BYTES = 32 * 2**20
ALIGNMENT = 16  # bytes: what vector loads of kernels ask for

Files = Mapping[Path, FileEntry]


def check_files(files: Files) -> None:
    """Raise ArtifactError for a file whose content is not what the manifest says; the files are read side by side."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(_check_file, files.items()))


def map_weights(files: Files) -> dict[str, Tensor]:
    """Every weight as a view of its mapped file, whose content has been checked."""
    check_files(files)
    source = SafetensorsSource(files)
    return {key: source.read(key) for key in source.keys()}  # noqa: SIM118 (it is not a mapping)


def stream_weights(files: Files, device: torch.device) -> dict[str, Tensor]:
    """Every weight on a GPU.

    Each file is read by a thread of its own through two pinned blocks, so that reading, hashing and copying overlap;
    its weights are views of one allocation. Raises ArtifactError for a file that is not what the manifest says.
    """
    with ThreadPoolExecutor() as pool:
        parts = pool.map(lambda item: _stream_file(item[0], item[1], device), files.items())
        return {name: tensor for part in parts for name, tensor in part.items()}


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


def _stream_file(file: Path, entry: FileEntry, device: torch.device) -> dict[str, Tensor]:
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as opened:
        prefix = opened.read(8)
        header = opened.read(int.from_bytes(prefix, "little"))
        digest.update(prefix + header)
        data = torch.empty(entry.size - 8 - len(header), dtype=torch.uint8, device=device)
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
            start = 0
            for block in _pinned_blocks(opened, digest.update):
                data[start : start + len(block)].copy_(block, non_blocking=True)
                start += len(block)
            torch.cuda.current_stream().synchronize()
    _compare(file, digest.hexdigest(), entry)
    return {name: _view(data, one) for name, one in json.loads(header).items() if name != "__metadata__"}


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


def _view(data: Tensor, declared: Mapping[str, Any]) -> Tensor:
    """A weight within the bytes of its file."""
    start, end = declared["data_offsets"]
    part = data[start:end]
    if start % ALIGNMENT:
        part = part.clone()
    return part.view(DTYPES[declared["dtype"]]).view(declared["shape"])

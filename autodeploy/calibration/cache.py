"""Calibrations that were made before, in the user's cache folder: what one machine found serves every GPU."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from autodeploy.cache import cache_dir, keep_folder, mark_used
from autodeploy.calibration.result import Calibration, Change
from autodeploy.progress import Progress
from autodeploy.quantization import Scheme

TENSORS, DESCRIPTION = "tensors.safetensors", "calibration.json"
MOST = 64
_CACHE = "cache"
_MARK = ":"


@dataclass(frozen=True)
class Key:
    """What a calibration rests on, as JSON data: the model's hash, the text's, what was asked, and versions."""

    parts: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where it is kept. It need not exist yet."""
        return cache_dir() / "calibration" / self.digest

    @property
    def digest(self) -> str:
        """Its hash."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()[:32]


def load_calibration(key: Key, progress: Progress) -> Calibration | None:
    """What is kept under `key`, or None. A damaged entry is removed, with a note."""
    if not key.folder.is_dir():
        return None
    try:
        data = (key.folder / TENSORS).read_bytes()
        described = json.loads((key.folder / DESCRIPTION).read_text())
        if hashlib.sha256(data).hexdigest() != described["sha256"]:
            raise ValueError("its hash is another")
        mark_used(key.folder)
        return _unpacked(data, described)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        progress.note(f"the cached calibration {key.folder} is damaged ({error}); it is made again")
        shutil.rmtree(key.folder, ignore_errors=True)
        return None


def keep_calibration(key: Key, found: Calibration) -> None:
    """Write `found` to the cache, whole or not at all."""
    tensors = {f"{_CACHE}{_MARK}{name}": tensor for name, tensor in found.cache_scales.items()}
    for name, change in found.changes.items():
        tensors |= {f"{name}{_MARK}{part}": tensor for part, tensor in change.tensors().items()}
    data = save({name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()})
    schemes = {name: one.scheme.model_dump() for name, one in found.changes.items() if one.scheme is not None}
    described = {"sha256": hashlib.sha256(data).hexdigest(), "schemes": schemes, "notes": found.notes, **key.parts}

    def fill(folder: Path) -> None:
        (folder / TENSORS).write_bytes(data)
        (folder / DESCRIPTION).write_text(json.dumps(described, indent=1))

    keep_folder(key.folder, fill, MOST)


def _unpacked(data: bytes, described: Mapping[str, Any]) -> Calibration:
    grouped: dict[str, dict[str, Any]] = {}
    scales = {}
    for key, tensor in load(data).items():
        name, _, part = key.rpartition(_MARK)
        if name == _CACHE:
            scales[part] = tensor
        else:
            grouped.setdefault(name, {})[part] = tensor
    schemes = {name: Scheme.model_validate(one) for name, one in described["schemes"].items()}
    changes = {name: Change.of(tensors, schemes.get(name)) for name, tensors in grouped.items()}
    return Calibration(changes, scales, tuple(described["notes"]))

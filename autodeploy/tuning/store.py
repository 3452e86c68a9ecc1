"""The choices of a device in the user's cache: the second build measures nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autodeploy.cache import cache_dir, replace_file
from autodeploy.tuning.choices import Choices, choices_from

Conditions = Mapping[str, str]


def conditions(device: torch.device) -> Conditions:
    """All that a measured time depends on besides the shape: the device, its driver, and who wrote the kernels."""
    return {
        "gpu": torch.cuda.get_device_name(device),
        "driver": str(torch.cuda.driver_version()) if hasattr(torch.cuda, "driver_version") else "",
        "cuda": str(torch.version.cuda),
        "torch": str(torch.__version__),
        "triton": version("triton"),
        "autodeploy": version("fx-autodeploy"),
    }


def load_choices(known: Conditions) -> Choices:
    """What is fastest alone, as it was saved under the same conditions; nothing where the file is damaged."""
    try:
        return choices_from(_read(known))
    except (ValueError, KeyError, TypeError):  # a cache may be lost at any time: it is measured again
        return Choices()


def save_choices(known: Conditions, choices: Choices) -> None:
    """Add `choices` to those saved under the same conditions; the file is replaced whole."""
    _write(known, {"choices": (load_choices(known) | choices).as_data(), "settled": _read(known).get("settled", {})})


def load_settled(known: Conditions, key: str) -> Choices:
    """What was settled in the layer of a key under the same conditions; nothing where the file is damaged."""
    try:
        return Choices.from_data(_read(known)["settled"][key])
    except (ValueError, KeyError, TypeError):
        return Choices()


def save_settled(known: Conditions, key: str, choices: Choices) -> None:
    """Keep what was settled in a layer beside what is fastest alone, from which the next layer starts."""
    settled = {**_read(known).get("settled", {}), key: choices.as_data()}
    _write(known, {"choices": load_choices(known).as_data(), "settled": settled})


def _read(known: Conditions) -> dict[str, Any]:
    try:
        data = json.loads(_path(known).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write(known: Conditions, data: Mapping[str, Any]) -> None:
    replace_file(_path(known), json.dumps({"conditions": dict(known), **data}, indent=1))


def _path(known: Conditions) -> Path:
    name = hashlib.sha256(json.dumps(dict(known), sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "tuning" / f"{name}.json"

"""The choices of a device in the user's cache: the second build measures nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

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
    """The choices that were saved under the same conditions; none where there are none, or the file is damaged."""
    try:
        data = json.loads(_path(known).read_text())
        return choices_from(data)
    except (OSError, ValueError, KeyError, TypeError):  # a cache may be lost at any time: it is measured again
        return Choices()


def save_choices(known: Conditions, choices: Choices) -> None:
    """Add `choices` to those saved under the same conditions; the file is replaced whole."""
    data = {"conditions": dict(known), "choices": (load_choices(known) | choices).as_data()}
    replace_file(_path(known), json.dumps(data, indent=1))


def _path(known: Conditions) -> Path:
    name = hashlib.sha256(json.dumps(dict(known), sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / "tuning" / f"{name}.json"

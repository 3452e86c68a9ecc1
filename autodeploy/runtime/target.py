"""What an artifact was built for, seen before anything slow is imported."""

from __future__ import annotations

import json
from pathlib import Path


def is_for_gpu(folder: Path) -> bool:
    """Whether a folder is an artifact for a GPU; what is wrong with it is not found here."""
    try:
        devices: object = json.loads((folder / "manifest.json").read_bytes())["devices"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return devices != ["cpu"]

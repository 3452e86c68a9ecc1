"""What a model's files say of it before its weights are read: their size, who may have them, and a chat template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from autodeploy.hub.download import DUPLICATES, WEIGHTS
from autodeploy.hub.failures import endpoint
from autodeploy.hub.reference import HUB_ID, ModelFiles

INDEX = "model.safetensors.index.json"
PATIENCE = 5.0  # seconds; a plan goes without what a slow Hub would have told


@dataclass(frozen=True)
class Checkpoint:
    """The weights and what comes with them. What is not known is None."""

    num_files: int | None
    num_bytes: int | None
    license_url: str | None
    """Where the licence of a gated model is accepted; None for one that everybody may have."""
    has_chat_template: bool

    @property
    def size(self) -> str | None:
        """The size in words."""
        if self.num_bytes is None:
            return None
        files = "" if self.num_files is None else f" in {self.num_files} file{'s' if self.num_files != 1 else ''}"
        return f"{self.num_bytes / 1e9:.2f} GB{files}"


def describe_checkpoint(files: ModelFiles) -> Checkpoint:
    """What is known of a model's checkpoint; of one on the Hub whose weights are not here, the Hub is asked.

    Where the Hub does not answer, only what its small files say is known.
    """
    weights = [file.stat().st_size for pattern in WEIGHTS for file in files.folder.glob(pattern)]
    url, sizes = _ask(files) if files.origin == "hub" else (None, weights)
    index = _json(files.folder / INDEX)
    stated = index.get("metadata", {}).get("total_size")
    stated_files = len(set(index.get("weight_map", {}).values())) or None
    return Checkpoint(
        len(sizes) if sizes else stated_files,
        sum(sizes) if sizes else stated,
        url,
        _has_chat_template(files.folder),
    )


def _ask(files: ModelFiles) -> tuple[str | None, list[int]]:
    """Where the licence is accepted, if it must be, and the sizes of the files that a build downloads."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    match = HUB_ID.fullmatch(files.reference)
    assert match is not None, "a model of the Hub has an id"
    try:
        found = HfApi(endpoint()).model_info(
            match["id"], revision=files.revision, files_metadata=True, timeout=PATIENCE
        )
    except (HTTPError, OfflineModeIsEnabled):  # a plan is made without it
        return None, []
    sizes = [one.size for one in found.siblings or () if one.size is not None and _is_weights(one.rfilename)]
    return f"{endpoint()}/{match['id']}" if found.gated else None, sizes


def _is_weights(name: str) -> bool:
    wanted = any(fnmatch(name, pattern) for pattern in WEIGHTS)
    return wanted and not any(fnmatch(name, pattern) for pattern in DUPLICATES)


def _has_chat_template(folder: Path) -> bool:
    files = ("chat_template.jinja", "chat_template.json")
    return any((folder / one).is_file() for one in files) or "chat_template" in _json(folder / "tokenizer_config.json")


def _json(file: Path) -> dict[str, Any]:
    """The content of a JSON file; empty where there is none, or it is damaged, which a build will say."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

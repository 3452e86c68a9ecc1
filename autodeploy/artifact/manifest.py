"""What an artifact says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from autodeploy.errors import ArtifactError

MANIFEST = "manifest.json"


class FileEntry(BaseModel):
    """The size in bytes and the hash of one file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    sha256: str


class Manifest(BaseModel):
    """The contents of `manifest.json`.

    `ties` maps the name of a tied weight to the one that is stored; `plugins` are those whose operators the graphs
    call, with their distributions and versions. Hashes find corruption; they are no signature.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str
    versions: dict[str, str]
    dtype: str
    devices: tuple[str, ...]
    ties: dict[str, str] = {}
    plugins: dict[str, str] = {}
    details: dict[str, JsonValue] = {}
    files: dict[str, FileEntry]


def versions() -> dict[str, str]:
    """The versions that an artifact is built with."""
    from importlib.metadata import version

    return {
        "autodeploy": version("fx-autodeploy"),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
    }


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`; ArtifactError, in one sentence, when the folder is no artifact we can read."""
    file = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder, so it is not an artifact")
    if not file.is_file():
        raise ArtifactError(f"{folder} holds no {MANIFEST}, so it is not an artifact")
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "its text"
        raise ArtifactError(f"{file} is damaged or of another version, at {where}: {problem['msg']}") from error

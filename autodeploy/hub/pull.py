"""Artifacts from the Hugging Face Hub."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from autodeploy.artifact.manifest import MANIFEST
from autodeploy.cache import cache_dir, make_folder
from autodeploy.hub.reference import is_hub_id, resolve
from autodeploy.progress import Progress


def pull(reference: str, progress: Progress | None = None) -> Path | None:
    """The folder of the artifact that `reference`, a Hub id, holds; None when it is another reference, or a model.

    Raises ModelError as `resolve` does.
    """
    if not is_hub_id(reference) or not _holds_artifact(resolve(reference, weights=False).folder):
        return None
    files = resolve(reference, progress=progress)
    assert files.revision is not None, "a Hub model has a commit"
    return make_folder(cache_dir() / "artifacts" / files.revision, partial(_link, files.folder))


def _holds_artifact(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _link(snapshot: Path, folder: Path) -> None:
    """Give `folder` the files of a snapshot: the Hub's cache holds symbolic links, which an artifact may not."""
    for file in snapshot.iterdir():
        try:
            os.link(file.resolve(), folder / file.name)
        except OSError:  # another file system, or one without links
            shutil.copy(file, folder / file.name)

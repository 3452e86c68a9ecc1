"""Artifacts to the Hugging Face Hub; `autodeploy.LLM` takes them back by their id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodeploy.artifact import Artifact
from autodeploy.artifact.manifest import MANIFEST
from autodeploy.errors import ModelError
from autodeploy.hub.failures import endpoint, explained

CARD = """\
---
library_name: autodeploy
{base}tags: [autodeploy]
---
# {repo_id}

A program in {dtype} for {gpu}, built by autodeploy {version}{origin}. To serve it:

```
pip install fx-autodeploy
autodeploy serve {repo_id}
```
"""
KEPT = (".gitattributes",)


@dataclass(frozen=True)
class Pushed:
    """Where an artifact is on the Hub, and the commit that holds it."""

    repo_id: str
    url: str
    revision: str


def push(artifact: Artifact, repo_id: str, *, private: bool = False, revision: str | None = None) -> Pushed:
    """Upload an artifact, whose weights are checked first, to the model `repo_id`, which is made if it is not there.

    All files go up in one commit, so that the repository holds the old artifact or the new one, never parts of both;
    a repository that holds anything else is refused. `revision` is a branch that exists. Raises ArtifactError for a
    damaged artifact, ModelError when the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    artifact.check_weights()
    api = HfApi(endpoint())
    with explained(repo_id, revision):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        there = set(api.list_repo_files(repo_id, revision=revision)) - {*KEPT, "README.md"}
        if there and MANIFEST not in there:
            raise ModelError(f"{repo_id} holds {min(there)!r} and no artifact: give a repository of the artifact's own")
        files: dict[str, Path | bytes] = {name: artifact.path / name for name in (MANIFEST, *artifact.manifest.files)}
        files["README.md"] = card(artifact, repo_id).encode()
        adds = [CommitOperationAdd(name, content) for name, content in files.items()]
        deletes = [CommitOperationDelete(name) for name in sorted(there - set(files))]
        commit = api.create_commit(
            repo_id, [*adds, *deletes], commit_message=f"Upload {repo_id} as built by autodeploy", revision=revision
        )
    return Pushed(repo_id, f"{endpoint()}/{repo_id}", commit.oid)


def card(artifact: Artifact, repo_id: str) -> str:
    """The README of an artifact's repository. A model that came from a folder stays unnamed: a path is private."""
    manifest = artifact.manifest
    model: Mapping[str, Any] = manifest.details.get("model") or {}  # type: ignore[assignment]
    from_hub = model.get("origin") == "hub"
    name = str(model.get("reference", "")).partition("@")[0]
    return CARD.format(
        base=f"base_model: {name}\n" if from_hub else "",
        repo_id=repo_id,
        dtype=manifest.dtype,
        gpu=manifest.details.get("gpu", manifest.devices[0]),
        version=manifest.versions["autodeploy"],
        origin=f" from {name} at {model.get('revision')}" if from_hub else "",
    )

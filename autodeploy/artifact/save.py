"""Writing an artifact, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from torch.fx import GraphModule

from autodeploy.artifact.graph_io import graph_to_data
from autodeploy.artifact.load import Artifact
from autodeploy.artifact.manifest import MANIFEST, FileEntry, Manifest, read_manifest, versions
from autodeploy.artifact.operators import needed_plugins
from autodeploy.artifact.writer import write_bytes, write_weights
from autodeploy.errors import ArtifactError, InputError
from autodeploy.weights.plan import WeightPlan, used_by
from autodeploy.weights.safetensors_source import PICKLES
from autodeploy.weights.source import TensorSource

ASSETS = (
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)


def tokenizer_assets(folder: Path) -> dict[str, Path]:
    """The files of a model folder that an artifact carries as they are: tokenizer, chat template, generation config."""
    found = {file.name: file for pattern in ASSETS for file in sorted(folder.glob(pattern)) if file.is_file()}
    return {name: file for name, file in found.items() if file.suffix not in PICKLES}


def save(
    path: Path,
    *,
    name: str,
    graph: GraphModule | Mapping[str, GraphModule],
    weights: WeightPlan,
    source: TensorSource,
    config: Mapping[str, Any],
    dtype: str,
    devices: Sequence[str],
    recipe: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    details: Mapping[str, Any] | None = None,
    assets: Mapping[str, Path | bytes] | None = None,
) -> Artifact:
    """Write an artifact to the folder `path`, replacing an artifact that is there.

    `graph` is one graph (called "main") or several that share `weights`, by name. Only weights that a graph reads are
    written. `config`, `recipe`, `history` and `details` must be plain JSON; `assets` are files by name. Everything goes
    to a temporary folder beside `path`, which is renamed at the end, so that nothing stops half-made.
    Raises InputError when `path` cannot be written or holds something else, CheckpointError from `source`.
    """
    check_target(path)
    graphs = {"main": graph} if isinstance(graph, GraphModule) else dict(graph)
    documents = {
        "graph.json": {"graphs": {key: graph_to_data(gm) for key, gm in graphs.items()}},
        "config.json": dict(config),
        "recipe.json": dict(recipe or {}),
        "history.json": list(history),
    }
    used = _used(weights, graphs)
    manifest = Manifest(
        name=name,
        versions=versions(),
        dtype=dtype,
        devices=tuple(devices),
        ties={alias: owner for alias, owner in used.owners().items() if alias != owner},
        plugins={name: dist for gm in graphs.values() for name, dist in needed_plugins(gm.graph).items()},
        details=dict(details or {}),
        files={},
    )
    try:
        with _replacing(path) as partial:
            files = _write_documents(partial, documents)
            files |= _write_assets(partial, dict(assets or {}), taken=files)
            files |= write_weights(partial, used, source)
            complete = manifest.model_copy(update={"files": files})
            (partial / MANIFEST).write_text(complete.model_dump_json(indent=1))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    return Artifact(path, read_manifest(path))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place at the end; gone when anything is raised."""
    partial = Path(mkdtemp(prefix=f".{path.name}-", dir=_parent(path)))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes it private; the rename would keep that
        _put(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(path: Path) -> None:
    """Raise InputError when `path` holds something that is not an artifact, before any work is done."""
    if not path.name:
        raise InputError(f"{path} cannot be an artifact: give the name of a folder")
    if path.is_file():
        raise InputError(f"{path} is a file: give the name of a folder")
    if path.is_dir() and any(path.iterdir()):
        try:
            read_manifest(path)
        except ArtifactError as error:
            raise InputError(f"{path} is not empty and not an artifact, so it stays: give another name") from error


def _parent(path: Path) -> Path:
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    return path.absolute().parent


def _used(weights: WeightPlan, graphs: Mapping[str, GraphModule]) -> WeightPlan:
    for gm in graphs.values():
        weights.check(gm)
    names = dict.fromkeys(name for gm in graphs.values() for name in used_by(gm))
    return WeightPlan({name: weights[name] for name in names})


def _write_documents(folder: Path, documents: Mapping[str, object]) -> dict[str, FileEntry]:
    return {
        name: write_bytes(folder / name, [json.dumps(document, indent=1).encode()])
        for name, document in documents.items()
    }


def _write_assets(
    folder: Path, assets: Mapping[str, Path | bytes], taken: Mapping[str, FileEntry]
) -> dict[str, FileEntry]:
    entries = {}
    for name, content in assets.items():
        reserved = name in taken or name == MANIFEST or name.startswith("weights-")
        if Path(name).name != name or reserved or Path(name).suffix in PICKLES:
            raise InputError(f"{name!r} cannot be a file of an artifact: it must be a plain, free name and no pickle")
        blocks = [content if isinstance(content, bytes) else content.read_bytes()]
        entries[name] = write_bytes(folder / name, blocks)
    return entries


def _put(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`; what was there is kept aside until that is done."""
    if not path.exists():
        partial.rename(path)
        return
    old = partial.with_name(f"{partial.name}-old")
    path.rename(old)
    try:
        partial.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)

"""Reading an artifact. Nothing in it is executed, and every byte is checked before it is used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from autodeploy.artifact.graph_io import graph_from_data
from autodeploy.artifact.manifest import MANIFEST, FileEntry, Manifest, read_manifest
from autodeploy.artifact.weights import Reading, check_files, describe_weights, map_weights, stream_weights
from autodeploy.errors import ArtifactError, nearest
from autodeploy.tuning import Tuning
from autodeploy.weights.safetensors_source import PICKLES

ENGINES = (".engine", ".plan")


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk, whose files have been checked; its weights are when they are read."""

    path: Path
    manifest: Manifest

    @property
    def config(self) -> dict[str, Any]:
        """The model's configuration, as in its `config.json`."""
        return self._object("config.json")

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe that it was built with."""
        return self._object("recipe.json")

    @property
    def history(self) -> list[dict[str, Any]]:
        """A report of each pass, in order."""
        history = self._json("history.json")
        if not isinstance(history, list):
            raise ArtifactError(f"{self.path / 'history.json'} must hold a list")
        return history

    @property
    def verification(self) -> dict[str, Any] | None:
        """What `build --verify` found, for `autodeploy.verify.Verification.from_dict`; None where it did not run."""
        found: Any = self.manifest.details.get("verification")
        return dict(found) if found else None

    @property
    def tuning(self) -> Tuning:
        """Which kernels were chosen on the GPU that built it."""
        found: Any = self.manifest.details.get("tuning")
        return Tuning.from_dict(found) if found else Tuning()

    @property
    def graph_names(self) -> list[str]:
        """The names of its graphs."""
        return list(self._graphs())

    def graph_module(self, name: str = "main") -> GraphModule:
        """Rebuild a graph, its weights on the meta device; ArtifactError when it is refused."""
        graphs = self._graphs()
        if name not in graphs:
            raise ArtifactError(f"{self.path} holds no graph {name!r}; {nearest(name, graphs)}")
        weights = self._tied(describe_weights(self._weight_files))
        return graph_from_data(graphs[name], weights, self.manifest.plugins)

    def check_weights(self) -> None:
        """Raise ArtifactError for a weight file whose content is not what the manifest says."""
        check_files(self._weight_files)

    def read_weights(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Every weight on `device`, tied ones sharing their storage. On the CPU they are mapped from the files.

        Do not write to them. Raises ArtifactError for a file whose content is not what the manifest says.
        """
        reading = self.start_reading(torch.device(device))
        reading.wait()
        return reading.tensors

    def start_reading(self, device: torch.device) -> Reading:
        """Every weight on `device`, as `read_weights` gives them, but perhaps not there yet."""
        if device.type != "cuda":
            return Reading(self._tied(map_weights(self._weight_files)))
        reading = stream_weights(self._weight_files, device)
        self._tied(reading.tensors)
        return reading

    @property
    def _weight_files(self) -> dict[Path, FileEntry]:
        return {self.path / name: entry for name, entry in self.manifest.files.items() if _holds_weights(name)}

    def _tied(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for alias, owner in self.manifest.ties.items():
            if owner not in tensors:
                raise ArtifactError(f"{self.path / MANIFEST} ties {alias!r} to {owner!r}, which is not stored")
            tensors[alias] = tensors[owner]
        return tensors

    def _graphs(self) -> dict[str, Any]:
        graphs = self._object("graph.json").get("graphs")
        if not isinstance(graphs, dict):
            raise ArtifactError(f"{self.path / 'graph.json'} holds no graphs")
        return graphs

    def _object(self, name: str) -> dict[str, Any]:
        value = self._json(name)
        if not isinstance(value, dict):
            raise ArtifactError(f"{self.path / name} must hold an object")
        return value

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_bytes())
        except (FileNotFoundError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{self.path / name} is missing or not JSON") from error


def load(path: Path, *, allow_engines: bool = False) -> Artifact:
    """Open the artifact in the folder `path`, once every file's size and hash are seen to be right.

    The hashes of weights wait until they are read, or `Artifact.check_weights` is called: they take seconds.

    Refused, with an ArtifactError that names the file: a pickle, a file that the manifest does not list, a link, and an
    engine of another runtime unless `allow_engines`, because loading one runs code of whoever built it.
    """
    manifest = read_manifest(path)
    found = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if not file.is_dir()}
    del found[MANIFEST]
    for name, file in found.items():
        _check_kind(name, file, manifest, allow_engines=allow_engines)
    missing = next((name for name in manifest.files if name not in found), None)
    if missing is not None:
        raise ArtifactError(f"{path / missing} is missing, and {MANIFEST} lists it: copy the artifact again")
    for name, file in found.items():
        _check_bytes(name, file, manifest)
    return Artifact(path, manifest)


def _check_kind(name: str, file: Path, manifest: Manifest, *, allow_engines: bool) -> None:
    if file.suffix.lower() in PICKLES:
        raise ArtifactError(f"{file} is refused: a pickle can run code when it is loaded")
    if file.suffix.lower() in ENGINES and not allow_engines:
        raise ArtifactError(f"{file} is refused: an engine runs code of whoever built it; --allow-engines accepts that")
    if file.is_symlink():
        raise ArtifactError(f"{file} is refused: an artifact holds no links")
    if name not in manifest.files:
        raise ArtifactError(f"{file} is refused: {MANIFEST} does not list it")


def _check_bytes(name: str, file: Path, manifest: Manifest) -> None:
    expected = manifest.files[name]
    size = file.stat().st_size
    if size != expected.size:
        raise ArtifactError(f"{file} is damaged: it has {size} bytes and {MANIFEST} says {expected.size}")
    if not _holds_weights(name):
        check_files({file: expected})


def _holds_weights(name: str) -> bool:
    return name.endswith(".safetensors")

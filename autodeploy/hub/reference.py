"""What a MODEL on the command line means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autodeploy.errors import ModelError, closest
from autodeploy.hub.download import download
from autodeploy.hub.gguf import convert
from autodeploy.hub.package import find_gguf
from autodeploy.progress import Progress

HUB_ID = re.compile(r"(?P<id>[\w.-]+(/[\w.-]+)?)(@(?P<revision>[^@\s]+))?")


@dataclass(frozen=True)
class ModelFiles:
    """A model's configuration, tokenizer and weights in one local folder, in the layout of transformers.

    `revision` is the commit of a Hub model, and None elsewhere. `origin` says what the reference was.
    """

    reference: str
    folder: Path
    origin: Literal["hub", "folder", "gguf", "package"]
    revision: str | None = None


def resolve(
    reference: str,
    *,
    revision: str | None = None,
    weights: bool = True,
    packed: bool = False,
    progress: Progress | None = None,
) -> ModelFiles:
    """Bring a model's files here and say where they are.

    `reference` is a Hub id `org/name` or `org/name@revision`, a folder, a `.gguf` file, or `pkg:NAME`. What begins like
    a path, or exists as one, is a path. Without `weights`, a Hub model's weights are not downloaded. With `packed`, a
    GGUF keeps its bits, and without it is widened to bf16. `progress` is told of the bytes of a download.
    Raises ModelError, in one sentence, for a reference that leads nowhere.
    """
    reference = reference.strip()
    if reference.startswith("pkg:"):
        _refuse_revision(reference, revision)
        return ModelFiles(reference, convert(find_gguf(reference.removeprefix("pkg:")), packed=packed), "package")
    if _is_path(reference):
        _refuse_revision(reference, revision)
        return _local(reference, Path(reference).expanduser(), packed)
    match = HUB_ID.fullmatch(reference)
    if match is None:
        raise ModelError(
            f"{reference!r} is not a model: "
            "expected a Hub id such as Qwen/Qwen3-0.6B, a folder, a .gguf file or pkg:NAME"
        )
    try:
        folder = download(match["id"], revision or match["revision"], weights=weights, progress=progress)
    except ModelError as error:
        raise ModelError(f"{error}{_near_here(Path(match['id']))}") from error
    return ModelFiles(reference, folder, "hub", folder.name)


def is_hub_id(reference: str) -> bool:
    """Whether a reference is a Hub id: neither a path nor a package."""
    return not reference.startswith("pkg:") and not _is_path(reference) and HUB_ID.fullmatch(reference) is not None


def _is_path(reference: str) -> bool:
    looks_like_one = reference.startswith((".", "/", "~")) or reference.endswith(".gguf")
    return looks_like_one or (reference != "" and Path(reference).exists())


def _local(reference: str, path: Path, packed: bool) -> ModelFiles:
    if path.is_file() and path.suffix == ".gguf":
        return ModelFiles(reference, convert(path, packed=packed), "gguf")
    if not path.exists():
        raise ModelError(f"{path} does not exist; {_nearest_path(path)}")
    if not path.is_dir():
        raise ModelError(f"{path} is a file of kind {path.suffix!r}: give a model folder or a .gguf file")
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} holds no config.json, so it is not a model folder{_other_contents(path)}")
    return ModelFiles(reference, path, "folder")


def _nearest_path(path: Path) -> str:
    if not path.parent.is_dir():
        return f"neither does {path.parent}"
    close = closest(path.name, (entry.name for entry in path.parent.iterdir()))
    return "give a model folder or a .gguf file" if close is None else f"did you mean {close!r}?"


def _near_here(path: Path) -> str:
    """A suggestion for who meant a model folder, and named none: what is no path is looked for on the Hub."""
    close = closest(path.name, (one.parent.name for one in path.parent.glob("*/config.json")))
    return "" if close is None else f"; did you mean the folder {str(path.with_name(close))!r}?"


def _other_contents(folder: Path) -> str:
    gguf = sorted(file.name for file in folder.glob("*.gguf"))
    if gguf:
        return f"; it holds {', '.join(gguf)}: give the path of one"
    nested = sorted(file.parent.name for file in folder.glob("*/config.json"))
    return f"; did you mean its folder {nested[0]!r}?" if nested else ""


def _refuse_revision(reference: str, revision: str | None) -> None:
    if revision is not None:
        raise ModelError(f"{reference} has no revision {revision!r}: only a Hub id has revisions")

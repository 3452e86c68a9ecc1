"""Models and artifacts from the Hugging Face Hub, into its own cache."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from autodeploy.errors import InputError, ModelError
from autodeploy.hub.failures import endpoint, explained
from autodeploy.progress import NullProgress, Progress, stage

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
WEIGHTS = ("*.safetensors",)
DUPLICATES = ("*/*", "consolidated*.safetensors")
"""Files in sub-folders (other formats), and the weights in Mistral's own naming, which repeat the model's."""
BYTES_BAR = "huggingface_hub.snapshot_download"
"""The client's name for its bar of all bytes; it shows others beside it."""


def download(repo_id: str, revision: str | None, *, weights: bool = True, progress: Progress | None = None) -> Path:
    """Download a model or an artifact (whatever of it is not cached) and give its folder, which its commit names.

    A connection that breaks is taken up where it broke, files that an earlier download has left whole are kept, and
    several come in parallel. `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` work as they do everywhere.
    Raises ModelError for a model that does not exist, needs a licence to be accepted, cannot be reached, or is not in
    safetensors; InputError when the disk is too small.
    """
    from huggingface_hub import constants, snapshot_download

    patterns = [*SMALL_FILES, *(WEIGHTS if weights else ())]
    wanted: dict[str, Any] = {
        "repo_id": repo_id,
        "revision": revision,
        "allow_patterns": patterns,
        "ignore_patterns": list(DUPLICATES),
    }
    with explained(repo_id, revision):
        if constants.HF_HUB_OFFLINE:
            folder = Path(snapshot_download(**wanted))
        else:
            missing = _missing_bytes(wanted)
            _check_disk(repo_id, missing, Path(constants.HF_HUB_CACHE))
            with stage(progress or NullProgress(), "download", missing):
                folder = Path(snapshot_download(**wanted, tqdm_class=_bar(progress or NullProgress())))
    _check(repo_id, folder, weights=weights)
    return folder


def _missing_bytes(wanted: dict[str, Any]) -> int:
    """How much of a snapshot is not in the cache yet; nothing that is known of, when the Hub does not answer."""
    from huggingface_hub import errors, snapshot_download

    try:
        files = snapshot_download(**wanted, dry_run=True, tqdm_class=_bar(NullProgress()))
    except errors.DryRunError:  # it hides why; the download itself takes what is cached, or says it
        return 0
    return sum(file.file_size or 0 for file in files if file.will_download)


def _check_disk(repo_id: str, num_bytes: int, cache: Path) -> None:
    """Raise InputError when a download would fill the disk."""
    folder = next(one for one in (cache, *cache.parents) if one.exists())
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise InputError(
            f"{repo_id}: {num_bytes / 1e9:.1f} GB are to be downloaded, and {cache} has {free / 1e9:.1f} GB left; "
            "make room, or set HF_HOME to a larger disk"
        )


def _bar(progress: Progress) -> type:
    """A progress bar for the Hub's client that prints nothing and tells `progress` of the bytes."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts = options.get("name") == BYTES_BAR
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if self.counts and n:
                progress.advance("download", int(n))

    return Bar


def _check(repo_id: str, folder: Path, *, weights: bool) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{repo_id} holds no config.json, so it is not a model of transformers (a GGUF? give its file)"
        )
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{repo_id} publishes no weights in safetensors, and pickles are never loaded because they can run code; "
            f"look for a converted revision at {endpoint()}/{repo_id}/discussions"
        )

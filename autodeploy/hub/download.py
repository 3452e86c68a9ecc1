"""Models from the Hugging Face Hub, into its own cache."""

from __future__ import annotations

from pathlib import Path

from autodeploy.errors import ModelError

SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab.txt")
WEIGHTS = ("*.safetensors",)
DUPLICATES = ("*/*", "consolidated*.safetensors")
"""Files in sub-folders (other formats), and the weights in Mistral's own naming, which repeat the model's."""


def download(repo_id: str, revision: str | None, *, weights: bool = True) -> Path:
    """Download a model (whatever of it is not cached) and give the snapshot's folder, which its commit names.

    `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` work as they do everywhere. Raises ModelError for a model
    that does not exist, needs a licence to be accepted, cannot be reached, or is not in safetensors.
    """
    from huggingface_hub import errors, snapshot_download

    patterns = [*SMALL_FILES, *(WEIGHTS if weights else ())]
    try:
        folder = Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=patterns, ignore_patterns=list(DUPLICATES))
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repo_id} is gated: accept its licence at {_endpoint()}/{repo_id} "
            "and log in with `hf auth login` or HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repo_id} has no revision {revision!r}; see {_endpoint()}/{repo_id}/tree/main") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{repo_id} is not a model on {_endpoint()} that you may see: check the spelling, "
            "or log in with `hf auth login` or HF_TOKEN if it is private"
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{repo_id!r} is not a Hub id: expected org/name, such as Qwen/Qwen3-0.6B") from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(_unreachable(repo_id, revision)) from error
    except errors.HfHubHTTPError as error:
        raise ModelError(f"{repo_id} could not be downloaded from {_endpoint()}: {_first_line(error)}") from error
    _check(repo_id, folder, weights=weights)
    return folder


def _check(repo_id: str, folder: Path, *, weights: bool) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{repo_id} holds no config.json, so it is not a model of transformers (a GGUF? give its file)"
        )
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{repo_id} publishes no weights in safetensors, and pickles are never loaded because they can run code; "
            f"look for a converted revision at {_endpoint()}/{repo_id}/discussions"
        )


def _unreachable(repo_id: str, revision: str | None) -> str:
    from huggingface_hub import constants

    name = repo_id if revision is None else f"{repo_id}@{revision}"
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{_endpoint()} cannot be reached"
    return f"{reason} and {name} is not (or not completely) in the cache {constants.HF_HUB_CACHE}"


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]

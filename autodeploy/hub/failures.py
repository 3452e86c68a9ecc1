"""What the Hub's client raises, as sentences of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autodeploy.errors import ModelError, closest

LOG_IN = "log in with `hf auth login` or HF_TOKEN"


@contextmanager
def explained(repo_id: str, revision: str | None = None) -> Iterator[None]:
    """Turn the client's errors into ModelError: what is wrong, and the nearest name or the next thing to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(f"{repo_id} is gated: accept its licence at {endpoint()}/{repo_id} and {LOG_IN}") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repo_id} has no revision {revision!r}; see {endpoint()}/{repo_id}/tree/main") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{repo_id} is not a model on {endpoint()} that you may see: {_nearest_model(repo_id)} "
            f"If it is private, {LOG_IN}"
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{repo_id!r} is not a Hub id: expected org/name, such as Qwen/Qwen3-0.6B") from error
    except errors.OfflineModeIsEnabled as error:
        raise ModelError(f"{repo_id}: HF_HUB_OFFLINE is set, and this needs {endpoint()}") from error
    except errors.LocalEntryNotFoundError as error:
        raise ModelError(_unreachable(repo_id, revision)) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise ModelError(f"{repo_id}: {endpoint()} does not let you do this; {LOG_IN} that may write") from error
        raise ModelError(f"{repo_id}: {endpoint()} answered {str(error).strip().partition(chr(10))[0]}") from error


def endpoint() -> str:
    """The Hub in use: HF_ENDPOINT, or the public one."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _nearest_model(repo_id: str) -> str:
    """A model with nearly this name: of the same author, or of anyone."""
    author, separator, name = repo_id.rpartition("/")
    beginning = name[: max(4, len(name) // 2)]
    searches = ({"author": author},) if separator else ()
    for search in (*searches, {"search": name}, {"search": beginning}):
        models = _models(search)
        close = closest(repo_id.lower(), models, cutoff=0.6)
        if close is not None:
            return f"did you mean {models[close]!r}?"
    return "check the spelling."


def _models(search: dict[str, str]) -> dict[str, str]:
    """The first models that a search finds, by their names in lower case; none when the Hub does not answer it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of the HTTP library that it uses

    try:
        found = [model.id for model in HfApi(endpoint()).list_models(**search, limit=500)]  # type: ignore[arg-type]
    except HTTPError:  # a suggestion is a courtesy: the error is told without it
        return {}
    return {name.lower(): name for name in found}


def _unreachable(repo_id: str, revision: str | None) -> str:
    from huggingface_hub import constants

    name = repo_id if revision is None else f"{repo_id}@{revision}"
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{endpoint()} cannot be reached"
    return f"{reason} and {name} is not (or not completely) in the cache {constants.HF_HUB_CACHE}"

"""The errors a user can meet. Each message says what is wrong, where, and the nearest valid value."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autodeploy.verify.result import Finding


class AutodeployError(Exception):
    """A failure of ours; the command line exits with 1."""


class InputError(AutodeployError):
    """A mistake in what the user gave us; the command line exits with 2."""


class ModelError(InputError):
    """A model reference that cannot be resolved, or a folder that is not a model."""


class CheckpointError(InputError):
    """A weight file that is missing, truncated, or does not fit the model."""


class UnsupportedError(InputError):
    """A model, construct or option that this version cannot serve."""


class RecipeError(InputError):
    """A recipe, an option of a pass, or a hardware name that is not valid."""


class ArtifactError(InputError):
    """An artifact that is damaged, edited, or refused."""


class RequestError(InputError):
    """A generation request that cannot be served; other requests go on."""


class PluginError(InputError):
    """A plugin that clashes with another, or cannot be loaded."""


class InvariantError(AutodeployError):
    """A pass left the graph in a state its stage does not allow."""


class EngineError(AutodeployError):
    """The process that runs the model failed or has ended."""


class VerificationError(AutodeployError):
    """A pass changed the numbers by more than it declares. `finding` has the figures and the rewrite at fault."""

    def __init__(self, message: str, finding: Finding) -> None:
        super().__init__(message)
        self.finding = finding


class QualityError(AutodeployError):
    """A quantized program is further from the unquantized one than the build allows."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """End an error message with the choice closest to `name`, or with all of them when none is close."""
    known = sorted(choices)
    close = closest(name, known)
    if close is not None:
        return f"did you mean {close!r}?"
    return f"known: {', '.join(known)}" if known else "none is known"


def closest(name: str, choices: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The choice closest to `name`; None when none is: of `cutoff` 0 all are, of 1 only `name` itself."""
    return next(iter(get_close_matches(name, sorted(choices), n=1, cutoff=cutoff)), None)

"""What the reader of one form of quantized checkpoint is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from autodeploy.checkpoints.module import Module
from autodeploy.errors import CheckpointError
from autodeploy.quantization.scheme import Scheme
from autodeploy.weights.expression import Expression

WHERE = "quantization_config in config.json"
Fields = Mapping[str, Any]


class Form(Protocol):
    """A form of quantized checkpoint, with what the config of one says."""

    @property
    def name(self) -> str:
        """What the config calls it."""

    def describe(self) -> str:
        """What weights are kept in, in a few words."""

    @property
    def scheme(self) -> Scheme | None:
        """What most projections get, for estimates; None where settings do not tell."""

    @property
    def own(self) -> Collection[str]:
        """The names of tensors that `unpack` makes something else of."""

    def unpack(self, module: Module) -> Mapping[str, Expression]:
        """The parameters that tensors of its own stand for, by name; none where a module is not quantized.

        Raises CheckpointError for tensors that are missing or cannot be what they claim, and UnsupportedError for
        numbers we have no operators for.
        """


class Settings(BaseModel):
    """Part of a config: what we do not read of it may be anything."""

    model_config = ConfigDict(frozen=True, extra="ignore")


S = TypeVar("S", bound=Settings)


def parse(kind: type[S], fields: Fields) -> S:
    """Read settings; CheckpointError, in one sentence, for one that is missing or wrong."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        path = ".".join(map(str, problem["loc"]))
        raise CheckpointError(f"{WHERE}: {path}: {problem['msg']}") from error


def plural(counts: Sequence[str]) -> str:
    """Names for a sentence."""
    return counts[0] if len(counts) == 1 else f"{', '.join(counts[:-1])} and {counts[-1]}"

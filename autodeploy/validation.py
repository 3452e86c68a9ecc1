"""Validating users' values with pydantic, and saying what is wrong in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from autodeploy.errors import RecipeError, nearest

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[str | int, ...]


def validated(model: type[Model], values: Mapping[str, Any], where: Callable[[Location], str]) -> Model:
    """Make a `model` of `values`; the error names the first wrong field, at `where(its location)`.

    Models that say their own sentence (`RuntimeSettings` does) get the place put before it.
    """
    try:
        return model.model_validate(values)
    except RecipeError as error:
        raise RecipeError(f"{where(())}: {error}") from error
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        location = problem["loc"]
        raise RecipeError(f"{where(location)}: {_sentence(model, problem['type'], location, problem)}") from error


def _sentence(model: type[BaseModel], kind: str, location: Location, problem: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        return f"unknown key {field!r}; {nearest(str(location[-1]), _siblings(model, location))}"
    if kind == "missing":
        return f"{field!r} is missing"
    message = str(problem["msg"])
    return f"{field}: {message[0].lower()}{message[1:]}, not {problem['input']!r}"


def _siblings(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that were possible beside the last part of `location`."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]

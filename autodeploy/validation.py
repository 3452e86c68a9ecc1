"""Validating users' values with pydantic, and saying what is wrong in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from autodeploy.errors import RecipeError, nearest

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[str | int, ...]

_QUOTED = re.compile("'([^']*)'")
_KEY = "[key]"
"""What pydantic ends a location with when the key is what is wrong, not its value."""


def validated(model: type[Model], values: Mapping[str, Any], where: Callable[[Location], str]) -> Model:
    """Make a `model` of `values`; the error names the first wrong field, at `where(its location)`.

    An unknown key is told before a missing one, which it may have been meant to be. Models that say their own sentence
    (`RuntimeSettings` does) get the place put before it.
    """
    try:
        return model.model_validate(values)
    except RecipeError as error:
        raise RecipeError(f"{where(())}: {error}") from error
    except ValidationError as error:
        problem = min(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
        location = problem["loc"]
        raise RecipeError(f"{where(location)}: {_sentence(model, problem['type'], location, problem)}") from error


def wording(problem: Mapping[str, Any]) -> str:
    """What pydantic says of a problem, in the words of YAML and without its preambles."""
    message = str(problem["msg"]).removeprefix("Value error, ").partition(", unable to parse")[0]
    return message.replace("valid tuple", "list").replace("valid dictionary", "mapping")


def _sentence(model: type[BaseModel], kind: str, location: Location, problem: Mapping[str, Any]) -> str:
    field, given, message = ".".join(map(str, location)), problem["input"], wording(problem)
    if kind == "extra_forbidden":
        known = _siblings(model, location)
        return f"unknown key {field!r}; {nearest(str(location[-1]), known) if known else 'there are no keys here'}"
    if kind == "missing":
        return f"{field!r} is missing"
    if location[-1:] == (_KEY,):
        return f"unknown key {field.removesuffix(f'.{_KEY}')!r}; {nearest(given, _QUOTED.findall(message))}"
    if kind == "literal_error" and isinstance(given, str):
        return f"{field}: {given!r} is not a choice; {nearest(given, _QUOTED.findall(message))}"
    if kind == "value_error":  # one of ours, which says what was given
        return f"{field}: {message}"
    return f"{field}: {message[0].lower()}{message[1:]}, not {given!r}"


def _siblings(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that were possible beside the last part of `location`."""
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]

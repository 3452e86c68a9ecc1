"""Options that come together: a command takes a dataclass, and its user sees an option for each field."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypeVar, get_type_hints

Result = TypeVar("Result")


def spread(*, without: Collection[str] = ()) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Give a command, for each keyword that is a dataclass of options, an option for each field of it.

    They stand where the dataclass stood, with the field's type, help and default. Those named in `without` are no
    options of this command: they keep their defaults.
    """

    def decorate(command: Callable[..., Result]) -> Callable[..., Result]:
        declared = signature(command, eval_str=True)
        kinds = {one.name: one.annotation for one in declared.parameters.values()}
        groups = {name: kind for name, kind in kinds.items() if isinstance(kind, type) and is_dataclass(kind)}
        options = {name: list(_options(kind, without)) for name, kind in groups.items()}

        @wraps(command)
        def spread_out(**given: Any) -> Result:
            for name, kind in groups.items():
                given[name] = kind(**{one.name: given.pop(one.name) for one in options[name]})
            return command(**given)

        flat = [part for one in declared.parameters.values() for part in options.get(one.name, [one])]
        vars(spread_out)["__signature__"] = declared.replace(parameters=flat)
        return spread_out

    return decorate


def _options(kind: type, without: Collection[str]) -> Iterator[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        if one.name not in without:
            yield Parameter(one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])

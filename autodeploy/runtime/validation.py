"""One sentence for a pydantic error."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from autodeploy.errors import nearest
from autodeploy.validation import wording


def explain(error: ValidationError, fields: Iterable[str]) -> str:
    """Say the first mistake in `error`: which field, what is wrong, what was given, and the nearest field name."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where!r} is not an option here; {nearest(where, fields)}"
    message = wording(first)
    if not where:
        return message
    if message.startswith("Input should"):
        message = message.removeprefix("Input ")
    return f"{where} {message}, got {first['input']!r}"

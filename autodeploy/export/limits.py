"""Tracing code that takes only so many tokens: it looks positions up in a table, or builds its mask for a length."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch.export import ExportedProgram

MAX_TOKENS = 1 << 24
"""An upper bound of a dynamic dimension, which torch.export asks for; nothing is sized by it."""

_MOST = re.compile(r"= Dim\('\w+', max=(\d+)\)")  # what torch.export suggests for code with tables
_NEVER = re.compile(r"satisfy the generated guard .* != (\d+)\.")  # code that takes another path for a full table


def export_within(export: Callable[[int], ExportedProgram]) -> tuple[ExportedProgram, int | None]:
    """What `export` gives for the largest upper bound of its dynamic dimensions at which it works, and that bound.

    The bound is None where any number is allowed. Raises what `export` raises, unless torch.export says that fewer
    tokens would do.
    """
    longest = MAX_TOKENS
    while True:
        try:
            return export(longest), None if longest == MAX_TOKENS else longest
        except Exception as error:  # model code and torch.export raise whatever they please
            shorter = _allowed(str(error))
            if shorter is None or shorter >= longest:
                raise
            longest = shorter


def _allowed(complaint: str) -> int | None:
    """The number of tokens up to which torch.export says that the code holds; None when it speaks of none."""
    most, never = _MOST.search(complaint), _NEVER.search(complaint)
    if most is not None:
        return int(most[1])
    return int(never[1]) - 1 if never is not None else None

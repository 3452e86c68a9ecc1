"""Launches that are noted and not made, where an engine looks which kernels it will need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from autodeploy.kernels.cuda.compile import Variant

Note = Callable[[Variant], None]

_NOTE: ContextVar[Note | None] = ContextVar("note", default=None)


@contextmanager
def noting(note: Note) -> Iterator[None]:
    """Tell `note` of each kernel that is launched meanwhile, which then is neither compiled nor launched."""
    before = _NOTE.set(note)
    try:
        yield
    finally:
        _NOTE.reset(before)


def is_noted(variant: Variant) -> bool:
    """Whether a launch was noted, and is not to be made."""
    note = _NOTE.get()
    if note is not None:
        note(variant)
    return note is not None

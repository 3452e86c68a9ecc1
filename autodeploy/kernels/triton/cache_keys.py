"""Triton's keys of our kernels, made the same in every process, so that one finds what another has compiled.

Triton makes a function's key at its first use, of its source, the keys of those it calls, and the globals that all of
them read. Of a function whose own key is not made yet it leaves out those globals (3.6), so that a key depends on which
kernels were launched before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

from triton.runtime.jit import JITCallable, JITFunction

from autodeploy.runtime.foreseen import OURS


def settle_keys() -> None:
    """Make the keys of all functions of our modules that are imported, none before those that it calls."""
    for name, module in list(sys.modules.items()):
        if name.startswith(OURS):
            for one in vars(module).values():
                if isinstance(one, JITFunction):
                    settle_key(one)


def settle_key(function: JITCallable) -> str:
    """The key of a function, made after those of all that it calls."""
    if function.hash is None:
        for one in _called(function):
            if one is not function:
                settle_key(one)
    return str(function.cache_key)


def _called(function: JITCallable) -> Iterator[JITCallable]:
    """The functions that a function names, as its module has them or as another module's attributes."""
    names = function.fn.__code__.co_names
    for name in names:
        found = function.__globals__.get(name)
        if isinstance(found, ModuleType):
            yield from (one for one in (getattr(found, name, None) for name in names) if isinstance(one, JITCallable))
        elif isinstance(found, JITCallable):
            yield found

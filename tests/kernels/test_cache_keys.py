"""What one process has compiled another finds, whatever either launches first."""

from __future__ import annotations

import pytest

from tests.kernels.device import INTERPRETED

pytest.importorskip("triton")
from triton.runtime.jit import JITCallable, JITFunction

from autodeploy.kernels.triton import prefill, skinny, tiles
from autodeploy.kernels.triton.cache_keys import settle_key, settle_keys

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
KERNELS: list[JITFunction] = [
    getattr(module, name)
    for module, name in (
        (skinny, "matvec_kernel"),
        (skinny, "skinny_kernel"),
        (tiles, "tiles_kernel"),
        (prefill, "_prefill_kernel"),
    )
]


@pytest.fixture
def unsettled(monkeypatch: pytest.MonkeyPatch) -> list[JITCallable]:
    """All functions that the kernels call, as they are in a fresh process."""
    found: list[JITCallable] = []
    waiting: list[JITCallable] = list(KERNELS)
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.append(one)
        waiting += [value for value in one.fn.__globals__.values() if isinstance(value, JITCallable)]
    for one in found:
        monkeypatch.setattr(one, "hash", None)
        monkeypatch.setattr(one, "used_global_vals", {})
    return found


def forget(functions: list[JITCallable]) -> None:
    for one in functions:
        one.hash, one.used_global_vals = None, {}


def test_keys_do_not_depend_on_what_came_first(unsettled: list[JITCallable]) -> None:
    forwards = [settle_key(one) for one in KERNELS]
    forget(unsettled)
    backwards = [settle_key(one) for one in reversed(KERNELS)]
    assert forwards == backwards[::-1]
    forget(unsettled)
    settle_keys()
    assert [one.cache_key for one in KERNELS] == forwards


def test_what_a_called_function_reads_counts(unsettled: list[JITCallable]) -> None:
    settle_key(KERNELS[0])
    assert "SIGMOID" in {name for name, _ in KERNELS[0].used_global_vals}

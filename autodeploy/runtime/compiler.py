"""Compiling kernels before they are needed: all at once, in other processes, since Triton compiles one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

SERVER = "autodeploy.runtime.compile_server"
Wanted = dict[str, tuple[str, str]]
"""Kernels to compile: the module and the name of each, by the text in which Triton describes what it is for."""


class Compiler:
    """A process that compiles kernels into Triton's cache on disk, in as many processes as there are cores.

    Start it early: it takes as long to get ready as whatever else imports torch.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def compile(self, steps: Iterable[object]) -> int:
        """Compile what `steps` launch and is not compiled in this process; how many kernels that were.

        Those are not launched, so that a step computes nothing of meaning. While one is taken, what those before it
        launch is compiled. A kernel that does not compile is left to whoever launches it: there the error is raised.
        """
        asked: set[str] = set()
        with _gathering() as wanted:
            for _ in steps:
                self._ask({described: one for described, one in wanted.items() if described not in asked})
                asked.update(wanted)
        if asked:
            from triton.runtime.cache import triton_key

            self._send("")
            triton_key()  # a hash of all of Triton, which this process needs to find what is compiled
            assert self._process.stdout is not None
            self._process.stdout.readline()
        return len(asked)

    def _ask(self, wanted: Wanted) -> None:
        if wanted:
            from triton.runtime import driver

            target = driver.active.get_current_target()
            request = {"target": [target.backend, target.arch, target.warp_size], "kernels": list(_jobs(wanted))}
            self._send(json.dumps(request))

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: kernels are compiled as they are launched
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextmanager
def _gathering() -> Iterator[Wanted]:
    """Note kernels that would be compiled, and neither compile nor launch them."""
    from triton import knobs

    wanted: Wanted = {}

    def note(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:  # noqa: A002 (Triton's name)
        wanted[compile["specialization_data"]] = (fn.module, fn.name)
        return True

    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = note
    try:
        yield wanted
    finally:
        knobs.runtime.jit_cache_hook = before


def _jobs(wanted: Wanted) -> Iterator[list[str]]:
    return ([module, name, described] for described, (module, name) in wanted.items())

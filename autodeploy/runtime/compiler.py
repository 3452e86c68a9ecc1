"""Compiling kernels before they are needed: all at once, in other processes, since Triton compiles one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodeploy.runtime.foreseen import CUDA, OURS, Job, read_foreseen

if TYPE_CHECKING:  # which imports torch
    from autodeploy.kernels.cuda.compile import Variant

SERVER = "autodeploy.runtime.compile_server"
Wanted = dict[str, tuple[str, str]]
"""Kernels to compile: the module and the name of each, by the text in which Triton describes what it is for."""


class Compiler:
    """A process that compiles kernels into Triton's cache on disk, in as many processes as there are cores.

    Start it early: it takes as long to get ready as whatever else imports torch. It then compiles what is foreseen in
    the artifact of `folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        foreseen = None if folder is None else read_foreseen(folder)
        given = () if foreseen is None else (str(folder),)  # it reads a long list by itself: a pipe would be full
        self._process = subprocess.Popen(
            [sys.executable, "-m", SERVER, *given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.conditions: Mapping[str, Any] = {} if foreseen is None else foreseen.conditions
        """Where these hold, all kernels were foreseen."""
        self._asked = set() if foreseen is None else {described for _, _, described in foreseen.kernels}

    def compile(self, steps: Iterable[object]) -> int:
        """Compile what `steps` launch, is not compiled in this process and was not foreseen; how many that were.

        Those are not launched, so that a step computes nothing of meaning. While one is taken, what those before it
        launch is compiled. A kernel that does not compile is left to whoever launches it: there the error is raised.
        Waits for what was foreseen, too.
        """
        foreseen = len(self._asked)
        with _gathering() as wanted:
            for _ in steps:
                jobs = [one for one in _jobs(wanted) if one[2] not in self._asked]
                if jobs:
                    self._ask(_target(), jobs)
        self._wait()
        return len(self._asked) - foreseen

    def _wait(self) -> None:
        if self._asked:
            from triton.runtime.cache import triton_key

            self._send("")
            triton_key()  # a hash of all of Triton, which this process needs to find what is compiled
            assert self._process.stdout is not None
            self._process.stdout.readline()

    def _ask(self, target: tuple[str, int, int], jobs: Sequence[Job]) -> None:
        self._send(json.dumps({"target": target, "kernels": jobs}))
        self._asked.update(described for _, _, described in jobs)

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

    from autodeploy.kernels.cuda.noting import noting

    wanted: Wanted = {}

    def note(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:  # noqa: A002 (Triton's name)
        wanted[compile["specialization_data"]] = (fn.module, fn.name)
        return True

    def note_variant(variant: Variant) -> None:
        wanted[json.dumps([variant.source, variant.entry, variant.numbers])] = (CUDA, variant.source)

    before = knobs.runtime.jit_cache_hook
    knobs.runtime.jit_cache_hook = note
    try:
        with noting(note_variant):
            yield wanted
    finally:
        knobs.runtime.jit_cache_hook = before


def _jobs(wanted: Wanted) -> list[Job]:
    return [(module, name, described) for described, (module, name) in wanted.items()]


def _target() -> tuple[str, int, int]:
    from triton.runtime import driver

    target = driver.active.get_current_target()
    return target.backend, target.arch, target.warp_size


def noted(steps: Iterable[object]) -> tuple[tuple[str, int, int], tuple[Job, ...]]:
    """What `steps` would have compiled in a fresh process, and for which GPU; they launch nothing."""
    with _forgetting(), _gathering() as wanted:
        for _ in steps:
            pass
    return _target(), tuple(_jobs(wanted))


@contextmanager
def _forgetting() -> Iterator[None]:
    """Let each of our kernels be one that this process, which may have timed them, has not compiled."""
    from triton.runtime.jit import JITFunction

    modules = [module for name, module in sys.modules.items() if name.startswith(OURS)]
    kernels = {id(one): one for module in modules for one in vars(module).values() if isinstance(one, JITFunction)}
    compiled = [(one, one.device_caches) for one in kernels.values()]
    for one, _ in compiled:
        one.device_caches = defaultdict(one.create_binder)
    try:
        yield
    finally:
        for one, caches in compiled:
            one.device_caches = caches

"""`python -m autodeploy.runtime.compile_server`: compiles kernels for a process that is busy with other things.

Each line that it reads asks for kernels; it answers with a line when they are in Triton's cache. It never touches the
GPU, so that it may fork.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from operator import attrgetter
from typing import Any, TextIO

from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Described:
    """A driver of a device that need not be here."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        """The device that code is made for."""
        return self._target

    def get_current_device(self) -> int:
        """Its number."""
        return 0


def serve(requests: TextIO, answers: TextIO) -> None:
    """Compile what each request asks for."""
    for line in requests:
        request = json.loads(line)
        kernels = request["kernels"]
        workers = min(len(kernels), os.cpu_count() or 1)
        with ProcessPoolExecutor(workers, get_context("fork")) as pool:
            done = sum(pool.map(partial(_compile, GPUTarget(*request["target"])), kernels))
        print(done, file=answers, flush=True)


def _compile(target: GPUTarget, kernel: tuple[str, str, str]) -> bool:
    """Compile one kernel of a module, which Triton has described; whether that worked."""
    module, name, described = kernel
    driver.set_active(Described(target))
    function: Any = attrgetter(name)(import_module(module))
    try:
        function.preload(described)
    except Exception:  # whoever launches it compiles it again, and is told why it fails
        return False
    return True


if __name__ == "__main__":
    import_module("autodeploy.kernels.triton.register")  # takes seconds, in which nobody asks yet
    serve(sys.stdin, sys.stdout)

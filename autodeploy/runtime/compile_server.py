"""`python -m autodeploy.runtime.compile_server [FOLDER]`: compiles kernels for a process that is busy otherwise.

First those that are foreseen in an artifact's folder. Then each line that it reads asks for kernels, which are compiled
at once; all go to Triton's cache. An empty line asks whether they are there: it is answered with a line, when they are.
The GPU is never touched, so that the process may fork.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from typing import Any, TextIO

from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.cache import triton_key
from triton.runtime.jit import JITFunction

from autodeploy.kernels.cuda.compile import Variant, binary
from autodeploy.kernels.triton.cache_keys import settle_keys
from autodeploy.runtime.foreseen import CUDA, Foreseen, read_foreseen

MOST_PROCESSES = 32


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


def serve(requests: TextIO, answers: TextIO, foreseen: Foreseen | None = None) -> None:
    """Compile what is foreseen, and what each request asks for."""
    under_way: list[Future[bool]] = []
    with ProcessPoolExecutor(min(os.cpu_count() or 1, MOST_PROCESSES), get_context("fork")) as pool:
        if foreseen is not None:
            under_way = [pool.submit(_compile, GPUTarget(*foreseen.target), *kernel) for kernel in foreseen.kernels]
        for line in requests:
            if line.strip():
                request = json.loads(line)
                target = GPUTarget(*request["target"])
                under_way += [pool.submit(_compile, target, *kernel) for kernel in request["kernels"]]
            else:
                print(sum(one.result() for one in under_way), file=answers, flush=True)
        pool.shutdown(cancel_futures=True)  # nobody waits for what is left


def _compile(target: GPUTarget, module: str, name: str, described: str) -> bool:
    """Compile one kernel of a module, which Triton has described, and what launches it; whether that worked."""
    driver.set_active(Described(target))
    try:
        if module == CUDA:
            return _compile_variant(target, described)
        function: Any = attrgetter(name)(import_module(module))
        if not isinstance(function, JITFunction):
            return False
        compiled = function.preload(described)
        if target.backend == "cuda":
            from triton.backends.nvidia.driver import CudaLauncher

            CudaLauncher(compiled.src, compiled.metadata)
    except Exception:  # whoever launches it compiles it again, and is told why it fails
        return False
    return True


def _compile_variant(target: GPUTarget, described: str) -> bool:
    """Compile one kernel in CUDA C++."""
    source, entry, numbers = json.loads(described)
    variant = Variant(source, entry, tuple((name, int(number)) for name, number in numbers))
    binary(variant, divmod(target.arch, 10))
    return True


def prepare() -> None:
    """What takes seconds, in which nobody asks yet."""
    try:
        from triton.backends.nvidia.driver import CudaUtils

        CudaUtils()  # C code, compiled into the cache
    except Exception:  # as above
        pass
    import_module("autodeploy.kernels.triton.register")
    settle_keys()
    triton_key()  # a hash of all of Triton, for each process that is forked


if __name__ == "__main__":
    prepare()
    serve(sys.stdin, sys.stdout, read_foreseen(Path(sys.argv[1])) if sys.argv[1:] else None)

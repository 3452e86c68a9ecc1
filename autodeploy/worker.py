"""`python -m autodeploy.worker ADDRESS`: a process that runs an artifact for another one."""

from __future__ import annotations

import sys
from pathlib import Path

from autodeploy.runtime.clock import Phases
from autodeploy.runtime.compiler import Compiler
from autodeploy.runtime.messages import Start
from autodeploy.runtime.protocol import Core
from autodeploy.runtime.target import is_for_gpu
from autodeploy.runtime.worker import Worker


def load(start: Start) -> Core:
    """The core that `start` describes."""
    folder = Path(start.artifact)
    if not is_for_gpu(folder):
        return _load(folder, start)
    compiler = Compiler(folder)  # gets ready while this process does
    try:
        return _load(folder, start, compiler)
    finally:
        compiler.close()


def _load(folder: Path, start: Start, compiler: Compiler | None = None) -> Core:
    phases = Phases()
    import torch

    from autodeploy import artifact
    from autodeploy.loading import load_core

    if compiler is not None:
        torch.set_num_threads(1)  # the host's part is small: threads that wait for each other would only hold it up
    phases.mark("imports")
    return load_core(artifact.load(folder), start.gpu, start.capture, start.settings, compiler, phases)


if __name__ == "__main__":
    sys.exit(Worker(sys.argv[1], load).run())
